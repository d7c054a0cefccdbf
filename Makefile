PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test install check slow faults clean

demo: install  ## Make a model from raw text, then chat with it.
	$(BIN)/luthier run recipes/quickstart.toml --chat

test: install  ## Run the tests (minutes, two cores, no network).
	$(BIN)/python -m pytest

install: $(STAMP)  ## Make .venv with everything in it.

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("luthier needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[hf,languages,dev]'
	touch $(STAMP)

check: install  ## ruff, pyright, and the gates.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/test_gates.py

slow: install  ## The slow tests: a browser, kills at random moments, the whole quickstart.
	$(BIN)/python -m pytest -m 'slow and not gpu' -o addopts='-q --strict-markers'

faults: install  ## Kill, fill, cut, flip: every fault on a toy run, and a table of what was survived.
	$(BIN)/python -m tests.faults

clean:  ## Remove what make and the tests made; runs stay.
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info

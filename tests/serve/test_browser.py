"""The chat page in a real browser: what a person does and sees."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.generate.engine import Engine
from luthier.tokenizer.tokenizer import Tokenizer
from tests.generate.conftest import tiny_decoder
from tests.serve.browser import Browser, chromium
from tests.serve.conftest import CONTEXT, ScriptedEngine, make_app, running

pytestmark = pytest.mark.slow
ENTER = "\ue007"
SHIFT = "\ue008"
ANSWER = ".assistant:last-child p"
STATE = "return [document.querySelector(arguments[0])?.textContent, document.querySelector('.writing') !== null]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile"), "--force-color-profile=srgb") as started:
        started.resize(1200, 850)
        yield started


def watch(browser: Browser) -> list[str]:
    """The states of the last answer until it is complete."""
    states: list[str] = []
    end = time.monotonic() + 60
    while time.monotonic() < end:
        text, writing = browser.run(STATE, ANSWER)
        if text and (not states or text != states[-1]):
            states.append(text)
        if text and not writing:
            return states
        time.sleep(0.02)
    raise AssertionError(f"the answer did not end: {states}")


class SlowEngine(Engine):
    """A real model that takes its time."""

    def _autocast(self):
        time.sleep(0.05)
        return super()._autocast()


def test_a_real_model_streams_its_answer_into_the_page(browser: Browser, tokenizer: Tokenizer, tmp_path: Path) -> None:
    engine = SlowEngine(tiny_decoder(tokenizer.vocab_size, CONTEXT))
    with running(make_app(engine, tokenizer)) as (address, _):
        browser.open(address)
        browser.until(lambda: browser.text("#model") == "tiny")
        assert f"{engine.parameters / 1000:.3g}k parameters" in browser.text("#facts")
        assert "gets facts wrong" in browser.text(".notice")
        browser.type("#message", "What is a violin?")
        browser.click("#send")
        states = watch(browser)
        browser.screenshot(tmp_path / "answer.png")
        assert len(states) >= 3, "the answer came at once"
        assert all(later.startswith(earlier.rstrip("\ufffd")) for earlier, later in itertools.pairwise(states))
        assert states[-1]
        assert browser.text(".user p") == "What is a violin?"
        assert (tmp_path / "answer.png").stat().st_size > 5_000


def test_several_turns_keys_stop_and_reset(browser: Browser, tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "A violin has four strings.", lambda _: time.sleep(0.02))
    with running(make_app(engine, tokenizer)) as (address, _):
        browser.open(address)
        browser.until(lambda: browser.text("#questions button") == "What is music?")
        browser.run("document.querySelector('#max-tokens').value = 60")
        browser.click("#questions button")
        assert watch(browser)[-1] == "A violin has four strings."
        browser.type("#message", "And" + SHIFT + ENTER + SHIFT + "the bow?" + ENTER)
        browser.until(lambda: browser.text(".user:nth-last-child(2) p") == "And\nthe bow?")
        assert watch(browser)[-1] == "A violin has four strings."
        assert engine.generations[-1].prompt_tokens > engine.generations[0].prompt_tokens + len(engine.script)

        engine.before_step = lambda _: time.sleep(0.3)
        browser.type("#message", "Slowly" + ENTER)
        browser.until(lambda: browser.text(ANSWER))
        browser.click("#stop")
        browser.until(lambda: "stopped" in browser.text(".remark"))
        browser.until(lambda: engine.generations[-1]._cache is None)
        assert engine.generations[-1].finish_reason is None
        browser.click("#reset")
        assert browser.text("#log") == ""
        engine.before_step = lambda _: None
        browser.type("#message", "Again" + ENTER)
        assert watch(browser)[-1] == "A violin has four strings."
        assert engine.generations[-1].prompt_tokens < engine.generations[0].prompt_tokens + 8


def test_a_long_conversation_forgets_its_beginning_and_goes_on(browser: Browser, tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(tokenizer, "x" * 20)
    with running(make_app(engine, tokenizer)) as (address, _):
        browser.open(address)
        browser.until(lambda: browser.text("#model") == "tiny")
        for n in range(8):
            browser.type("#message", f"Question number {n}, which is long enough to fill it" + ENTER)
            browser.until(lambda n=n: browser.run("return document.querySelectorAll('.assistant').length") == n + 1)
            assert watch(browser)[-1].startswith("xxxx")
        assert "oldest messages are no longer seen" in browser.text(".remark")
        assert browser.text(".wrong") == ""
        browser.type("#message", "much too long " * 40 + ENTER)
        browser.until(lambda: f"context holds {CONTEXT}" in browser.text(".wrong"))
        assert browser.run("return document.querySelector('#message').value").startswith("much too long")


def test_markup_in_an_answer_is_shown_as_text(browser: Browser, tokenizer: Tokenizer) -> None:
    """E10."""
    attack = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
    with running(make_app(ScriptedEngine(tokenizer, attack), tokenizer)) as (address, _):
        browser.open(address)
        browser.until(lambda: browser.text("#model") == "tiny")
        browser.run("document.querySelector('#max-tokens').value = 100")
        browser.type("#message", "<b>bold</b>" + ENTER)
        assert watch(browser)[-1] == attack
        assert browser.text(".user p") == "<b>bold</b>"
        assert browser.run("return window.hit ?? null") is None
        assert browser.run("return document.querySelectorAll('#log img, #log script, #log b').length") == 0


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(browser: Browser, tokenizer: Tokenizer, tmp_path: Path, width: int) -> None:
    text = "A violin is a wooden instrument with four strings.\n" + "w" * 60
    with running(make_app(ScriptedEngine(tokenizer, text), tokenizer)) as (address, _):
        browser.resize(width, 850)
        browser.open(address)
        browser.until(lambda: browser.text("#model") == "tiny")
        browser.run("document.querySelector('#max-tokens').value = 100")
        browser.type("#message", "What is a violin?" + ENTER)
        watch(browser)
        browser.click("#settings summary")
        browser.screenshot(tmp_path / f"{width}.png")
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
        panel = browser.run("return document.querySelector('.panel').getBoundingClientRect().toJSON()")
        assert panel["left"] >= 0
        assert panel["right"] <= browser.run("return window.innerWidth")

"""Verb sft answer: a model answers prompts, so that another may learn from its texts. In: a run, records of prompts. Out: conversations.

The file is a pure function of weights, prompts, settings and seed. What is answered stands in `TO.partial` at once, so a command that was
stopped goes on where it was. Next: a source of `[sft]`, which any tokenizer can read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.config.data import SourceConfig
from luthier.config.sampling import SamplingSection
from luthier.data.reading.sources import read_source
from luthier.data.report import SourceReport
from luthier.data.split import keyed_hash
from luthier.errors import ConfigError, DataError
from luthier.generate.batch import generate_batch
from luthier.generate.chat import chat_banned_ids, chat_stop_ids
from luthier.model.weights import weights_sha256
from luthier.runs.files import fingerprint, make_directory, write_text
from luthier.runs.progress import progress_for
from luthier.runs.registry import find_run, runs_root
from luthier.runs.store import Store
from luthier.stages.chat import sampling
from luthier.stages.loading import Loaded, load_run
from luthier.stages.output import print_json, print_rows
from luthier.stages.tuning import system_messages
from luthier.tasks.problems import Problem, read_problems
from luthier.tokenizer.chat import render_prompt

AT_ONCE = 64
"""Prompts that are answered together and written down together."""


def answer_verb(
    run: str, prompts: str, to: str, changes: Mapping[str, Any], seed: int, *, as_json: bool = False, root: str | None = None
) -> None:
    """Write a line `{"messages": [...]}` for each prompt whose answer ended by itself; the rest is counted by its reason.

    Raises: ConfigError when the file is there already, DataError when there is no prompt, or no answer ends
    """
    path = Path(to)
    if path.exists():
        raise ConfigError(f"{to}: is there already", fix="give another name, or remove it")
    loaded = load_run(find_run(run, runs_root(root)))
    report = SourceReport(prompts)
    records = read_source(SourceConfig(path=prompts), Store(loaded.run.path.parent).cache, report)
    problems = list({one.id: one for one in read_problems(records, "prompts", report.drop)}.values())
    if not problems:
        raise DataError(f"{prompts}: no prompt ({report.reasons()})", fix="records need `prompt`, `question` or `instruction`")
    make_directory(path.parent)
    settings, partial = sampling(loaded, changes), path.with_name(f"{path.name}.partial")
    known = fingerprint([weights_sha256(loaded.engine.model.state_dict()), settings.model_dump(), seed, [one.id for one in problems]])
    lines, reasons = list[str](), Counter(report.dropped)
    for one, said in _answers(loaded, problems, settings, seed, partial, known):
        reason = said.get("left_out")
        if reason is not None:
            reasons[reason] += 1
            continue
        turns = [*({"role": m.role, "content": m.content} for m in one.prompt), {"role": "assistant", "content": said["answer"]}]
        lines.append(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    if not lines:
        raise DataError(f"{prompts}: no answer ended by itself within {settings.max_new_tokens} tokens", fix="set --max-new-tokens higher")
    write_text(path, "".join(lines))
    partial.unlink(missing_ok=True)
    if as_json:
        print_json({"run": str(loaded.run.path), "file": str(path), "conversations": len(lines), "left_out": dict(reasons)})
        return
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none"
    print_rows([("conversations", f"{len(lines):,} in {path}"), ("left out", left_out)])


def _answers(
    loaded: Loaded, problems: Sequence[Problem], settings: SamplingSection, seed: int, partial: Path, known: str
) -> Iterator[tuple[Problem, dict[str, str]]]:
    """Each prompt with its answer, or the reason why there is none; what `partial` holds of the same work is not done again."""
    done = _read(partial, known)
    groups = [problems[start : start + AT_ONCE] for start in range(0, len(problems), AT_ONCE)]
    with (
        partial.open("a" if done else "w", encoding="utf-8", newline="\n") as file,
        progress_for().bar("answers", len(problems), "prompts") as bar,
    ):
        if not done:
            file.write(json.dumps(known) + "\n")
        for number, group in enumerate(groups):
            if number >= len(done):
                done.append(_together(loaded, group, settings, seed))
                file.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
                file.flush()
            yield from zip(group, done[number], strict=True)
            bar.advance(len(group))


def _read(partial: Path, known: str) -> list[list[dict[str, str]]]:
    """The groups that an earlier command has answered; none where it was about something else. A torn line is cut off."""
    found = partial.read_bytes() if partial.exists() else b""
    whole = found[: found.rfind(b"\n") + 1].decode("utf-8")  # a torn line may end within a character
    first, *rest = whole.split("\n")  # and answers may hold what else `splitlines` takes for an end of line
    if first != json.dumps(known):
        return []
    if not found.endswith(b"\n"):
        write_text(partial, whole)
    return [json.loads(line) for line in rest if line]


def _together(loaded: Loaded, problems: Sequence[Problem], settings: SamplingSection, seed: int) -> list[dict[str, str]]:
    """Answer some prompts in one batch, each with a seed of its own."""
    engine, tokenizer = loaded.engine, loaded.tokenizer
    system = system_messages(loaded.recipe.sft.system_prompt)
    asked = [render_prompt(one.behind(system), tokenizer) for one in problems]
    fitting = [i for i, ids in enumerate(asked) if len(ids) < engine.max_context]
    seeds = [keyed_hash(seed, problems[i].id) % 2**63 for i in fitting]
    stop, banned = chat_stop_ids(tokenizer), chat_banned_ids(tokenizer, engine.model.config.vocab_size)
    completions = generate_batch(engine, [asked[i] for i in fitting], settings, seeds, stop_ids=stop, banned_ids=banned)
    found = [{"left_out": "too_long"} for _ in problems]
    for i, one in zip(fitting, completions, strict=True):
        text = tokenizer.decode(one.ids).strip()
        found[i] = {"left_out": "did_not_end"} if one.finish_reason != "stop" else {"answer": text} if text else {"left_out": "empty"}
    return found

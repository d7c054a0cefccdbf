"""The report. In: plain values of a finished run. Out: one HTML file that needs nothing else, no network either. Next room: stages.

`report.html` is the template, `report.css` and `report.js` go into it, and so does plotly.js. All text of models and data is escaped
by the template; what the charts need goes in as JSON that cannot end a script element. The same data give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.runs.files import make_directory, write_text
from luthier.runs.progress import duration, number

MAX_POINTS = 3000
"""Training steps that a chart shows; of more, every n-th is taken. Rows with a validation loss are all kept."""
_CHARTED = ("step", "train/loss", "val/loss", "val/bpb", "lr", "tok_per_s", "mfu", "grad_norm", "mem_gib", "tokens_seen")
_TITLES = {
    "grpo": "loss in training; held out: 1 - mean reward",
    "dpo": "loss, nats per pair",
    "reward": "loss, nats per pair",
}
"""Of the losses of stages in which they are not nats per token."""
_MADE = ("conversations", "preferences", "problems", "documents")
"""What sources' rows count, each one of these."""
_UNKNOWN = "–"
TOKEN_TONES = 5
"""Colours that a text's tokens take in turn."""


@dataclass(frozen=True)
class ReportData:
    """What a report shows, as plain values; an empty part is left out of the page."""

    title: str
    description: str = ""
    facts: Sequence[tuple[str, str]] = ()
    """Machine, versions, command."""
    summary: Sequence[tuple[str, str]] = ()
    """The few figures on top."""
    stages: Sequence[Mapping[str, Any]] = ()
    """`name`, `seconds`, `cached`."""
    sources: Sequence[Mapping[str, Any]] = ()
    """The data manifest's rows: `name`, `licence`, `attribution`, `documents`, `bytes`, `dropped`."""
    sft_sources: Sequence[Mapping[str, Any]] = ()
    """The same for what later stages learn from, counted in `conversations`, `preferences` or `problems`."""
    tokenizer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Measures by name."""
    plan: Sequence[Mapping[str, Any]] = ()
    """`label`, `predicted`, `measured`, and perhaps `ratio`."""
    parameters: Mapping[str, int] = field(default_factory=dict[str, int])
    """Parameters by part, without the total."""
    pretrain: Sequence[Mapping[str, Any]] = ()
    """Lines of `metrics.jsonl`."""
    sft: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    """`step`, `prompt`, `text` of pretraining."""
    sft_samples: Sequence[Mapping[str, Any]] = ()
    answers: Sequence[Mapping[str, Any]] = ()
    """`question`, and `base` and `tuned` as `evals.answers` gives them."""
    sft_examples: Sequence[Mapping[str, Any]] = ()
    """`question` and `answer` of some training conversations."""
    post: Sequence[Mapping[str, Any]] = ()
    """Each stage after SFT: `kind`, `name`, lines of `metrics` and `samples`, and `found`: label, value and text of what to look at."""
    tokens_per_byte: float | None = None
    """Turns nats per token into bits per byte for the training loss."""


def write_report(path: Path, data: ReportData) -> None:
    """Write the page.

    Raises: StorageError
    """
    make_directory(path.parent)
    write_text(path, report_html(data))


def report_html(data: ReportData) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    own = files("luthier.evals")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((own / "report.html").read_text("utf-8"))
    curves = {"pretrain": _curves(data.pretrain), "sft": _curves(data.sft), "bitsPerNat": _bits_per_nat(data.tokens_per_byte)}
    charted = bool(data.pretrain or data.sft or data.post)
    return template.render(
        data=data,
        css=Markup((own / "report.css").read_text("utf-8")),
        js=Markup((own / "report.js").read_text("utf-8")),
        plotly=Markup(get_plotlyjs() if charted else ""),
        charts=_finite({**curves, "post": [_titled(stage) for stage in data.post], "charted": charted}),
        stages=_stages(data.stages),
        parameters=_parameters(data.parameters),
        sources=[_source(source) for source in data.sources],
        sft_sources=[_source(source) for source in data.sft_sources],
        tokenizer=[(name.replace("_", " "), _value(value)) for name, value in data.tokenizer.items() if not isinstance(value, dict | list)],
        tokenizer_sources=_measured(data.tokenizer.get("sources") or {}),
        tokenizer_splits=_split_rows(data.tokenizer.get("splits") or {}),
        tokenizer_view=_token_view(data.tokenizer.get("view") or []),
        validations=_validations(data.pretrain),
        post=[{**stage, **_measures(stage["metrics"]), "samples": _by_prompt(stage["samples"])} for stage in data.post],
        samples=_by_prompt(data.samples),
        sft_samples=_by_prompt(data.sft_samples),
        answers=[_answer(answer) for answer in data.answers],
        tuned=any("tuned" in answer for answer in data.answers),
        examples=[{"question": str(one.get("question", "")), "answer": str(one.get("answer", ""))} for one in data.sft_examples],
    )


def _bits_per_nat(tokens_per_byte: float | None) -> float | None:
    """The factor from nats per token to bits per byte."""
    return tokens_per_byte / math.log(2) if tokens_per_byte else None


def _curves(rows: Sequence[Mapping[str, Any]], charted: Sequence[str] = _CHARTED) -> dict[str, list[dict[str, Any]]]:
    """Split metrics into training rows, thinned to what a chart can show, and validation rows."""
    train = [row for row in rows if row.get("train/loss") is not None]
    stride = max(1, math.ceil(len(train) / MAX_POINTS))
    thinned = [row for index, row in enumerate(train) if (len(train) - 1 - index) % stride == 0]
    held_out = [row for row in rows if row.get("val/loss") is not None]
    return {"train": [_charted(row, charted) for row in thinned], "val": [_charted(row, charted) for row in held_out]}


def _measures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A later stage's curves, the measures of its own that there are, and the last of each, in training and held out."""
    found = {key.split("/", 1)[1]: None for row in rows for key in row if key.startswith("post/")}
    held_out = {key.split("/", 1)[1]: None for row in rows for key in row if key.startswith("val/") and key != "val/loss"}
    measures = ["loss", *dict.fromkeys([*found, *held_out])]
    charted = (*_CHARTED, *(f"{side}/{measure}" for measure in measures for side in ("post", "val")))

    def last(key: str) -> str:
        return _value(next((row[key] for row in reversed(rows) if row.get(key) is not None), None))

    table = [(m.replace("_", " "), last("train/loss" if m == "loss" else f"post/{m}"), last(f"val/{m}")) for m in measures]
    return {**_curves(rows, charted), "measures": measures[1:], "table": table}


def _titled(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A later stage's curves, with the title of its losses where they are not per token."""
    return {**_measures(stage["metrics"]), **({"title": _TITLES[stage["kind"]]} if stage["kind"] in _TITLES else {})}


def _charted(row: Mapping[str, Any], charted: Sequence[str]) -> dict[str, Any]:
    """Keep what is drawn, rounded to what can be seen."""
    kept = {key: row[key] for key in charted if key in row}
    return {key: float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value for key, value in kept.items()}


def _finite(value: Any) -> Any:
    """Turn numbers that JSON lacks into null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _stages(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    longest = max((float(stage["seconds"]) for stage in stages), default=0.0) or 1.0
    return [
        {
            "name": str(stage["name"]),
            "time": duration(float(stage["seconds"])),
            "share": round(100 * float(stage["seconds"]) / longest, 1),
            "cached": bool(stage.get("cached")),
        }
        for stage in stages
    ]


def _parameters(parts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Parts that there are, the largest share 100; their order is the model's."""
    total = sum(parts.values())
    return [
        {"name": name, "count": f"{value:,}", "percent": f"{100 * value / total:.1f} %", "width": round(100 * value / total, 2)}
        for name, value in parts.items()
        if value
    ]


def _measured(sources: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """What the tokenizer does to each source."""
    return [
        {
            "name": str(name),
            "documents": _value(row.get("documents")),
            "bytes_per_token": f"{float(row.get('bytes_per_token') or 0):.3f}",
            "tokens_per_word": f"{float(row.get('tokens_per_word') or 0):.3f}",
        }
        for name, row in sources.items()
    ]


def _split_rows(splits: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """How words, numbers and punctuation split."""
    return [
        {
            "name": str(name),
            "occurrences": _value(row.get("occurrences")),
            "tokens_each": f"{float(row.get('tokens_each') or 0):.2f}",
            "whole": f"{float(row.get('whole_share') or 0):.1%}",
        }
        for name, row in splits.items()
    ]


def _token_view(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A text's tokens, coloured in turn so that neighbours differ."""
    return [
        {"text": str(piece.get("text", "")), "id": piece.get("id"), "tone": number % TOKEN_TONES + 1} for number, piece in enumerate(pieces)
    ]


def _source(source: Mapping[str, Any]) -> dict[str, str]:
    dropped = source.get("dropped") or {}
    size = source.get("bytes")
    return {
        "name": str(source.get("name", "")),
        "licence": str(source.get("licence") or "unknown"),
        "attribution": str(source.get("attribution") or _UNKNOWN),
        "count": _value(next((source[made] for made in _MADE if made in source), None)),
        "size": _UNKNOWN if size is None else f"{float(size) / 1e6:.1f} MB",
        "dropped": ", ".join(f"{_value(count)} {reason}" for reason, count in dropped.items()) or "nothing",
    }


def _validations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The validation losses as text, for readers without scripts."""
    return [
        {
            "step": _value(row.get("step")),
            "tokens": number(float(row["tokens_seen"])) if row.get("tokens_seen") is not None else _UNKNOWN,
            "loss": f"{float(row['val/loss']):.4f}",
            "bpb": f"{float(row['val/bpb']):.4f}" if row.get("val/bpb") is not None else _UNKNOWN,
        }
        for row in rows
        if row.get("val/loss") is not None
    ]


def _by_prompt(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collect samples by prompt, each prompt's in the order of steps."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        taken = {"step": int(sample.get("step", 0)), "text": str(sample.get("text", ""))}
        prompts.setdefault(str(sample.get("prompt", "")), []).append(taken)
    return [{"prompt": prompt, "rows": sorted(rows, key=lambda row: row["step"])} for prompt, rows in prompts.items()]


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    sides = [_side(kind, answer[kind]) for kind in answer if kind != "question"]
    return {"question": str(answer.get("question", "")), "sides": sides}


def _side(kind: str, said: Any) -> dict[str, str]:
    """One model's answer and where it ended."""
    given: Mapping[str, Any] = said if isinstance(said, Mapping) else {"answer": said}
    tokens, reason = given.get("tokens"), given.get("finish_reason")
    end = ""
    if tokens is not None:
        end = f"ended by itself after {tokens} tokens" if reason == "stop" else f"cut after {tokens} tokens"
    return {"kind": kind, "answer": str(given.get("answer", "")), "end": end}


def _value(value: Any) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

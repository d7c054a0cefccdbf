"""The report page: whole, without network, safe with any text, the same bytes for the same data."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from luthier.evals.report import MAX_POINTS, ReportData, report_html, write_report

NASTY = '</script><img src=x onerror=alert(1)> & <b>"quoted"</b> {{ 7 * 7 }} <!-- \u2028'


def metrics(steps: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        rows.append({"step": step, "train/loss": 8.0 / step, "lr": 1e-3, "tok_per_s": 9000.5, "mfu": 0.5, "tokens_seen": 4096 * step})
        if step % 100 == 0:
            rows.append({"step": step, "val/loss": 8.5 / step, "val/bpb": 3.0 / step, "tokens_seen": 4096 * step})
    return rows


def full(text: str = "plain") -> ReportData:
    return ReportData(
        title=f"run {text}",
        description=text,
        facts=[("machine", text)],
        summary=[("validation loss", "4.1234 nats per token")],
        stages=[{"name": "data", "seconds": 3.0, "cached": True}, {"name": "pretrain", "seconds": 200.0, "cached": False}],
        sources=[{"name": text, "licence": None, "attribution": text, "documents": 12345, "bytes": 2e6, "dropped": {text: 3}}],
        sft_sources=[
            {"name": text, "licence": text, "conversations": 7},
            {"name": "pairs", "licence": None, "preferences": 8_888, "dropped": {"equal_answers": 4_444}},
        ],
        tokenizer={
            "bytes_per_token": 3.5481,
            "used_entries": 4000,
            "sources": {text: {"documents": 31, "bytes_per_token": 3.21987, "tokens_per_word": 1.5}},
            "splits": {"numbers": {"occurrences": 1234, "tokens_each": 2.517, "whole_share": 0.25}},
            "unreachable": [text],
            "view": [{"id": 5, "text": text, "bytes": 3}, {"id": 777, "text": " cut", "bytes": 4}],
        },
        plan=[{"label": text, "predicted": "1", "measured": "2"}],
        parameters={"embedding": 100, "mlp": 300, "head": 0},
        pretrain=metrics(300),
        sft=metrics(100),
        samples=[{"step": step, "prompt": text, "text": f"{text} at {step}"} for step in (200, 100)],
        sft_samples=[{"step": 1, "prompt": text, "text": text}],
        answers=[{"question": text, "base": {"answer": text, "finish_reason": "length", "tokens": 9},
                  "tuned": {"answer": text, "finish_reason": "stop", "tokens": 13}}],
        sft_examples=[{"question": text, "answer": text}],
        tokens_per_byte=0.28,
    )  # fmt: skip


class Reader(HTMLParser):
    """Collects elements, text, and what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "action") and value != "data:,"]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def body(page: str) -> str:
    """The page without plotly, which is most of it."""
    return re.sub(r"(?s)<script>/\*\*.*?</script>", "", page)


def charts(page: str) -> dict[str, Any]:
    found = re.search(r'(?s)<script type="application/json" id="charts">(.*?)</script>', page)
    assert found
    return json.loads(found.group(1))


def test_text_of_models_and_data_stays_text() -> None:
    plain, nasty = read(report_html(full())), read(report_html(full(NASTY)))
    assert nasty.tags == plain.tags
    assert nasty.loads == []
    assert "".join(nasty.text).count("onerror=alert(1)") >= 15


def test_nothing_is_loaded_and_the_policy_forbids_it() -> None:
    page = report_html(full())
    assert read(page).loads == []
    assert "default-src 'none'" in page
    assert "url(" not in page[: page.index("</style>")]
    assert "Plotly" in page


def test_same_data_same_bytes(tmp_path: Path) -> None:
    write_report(tmp_path / "a" / "report.html", full())
    write_report(tmp_path / "b.html", full())
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_text_parts_need_no_script() -> None:
    text = " ".join("".join(read(body(report_html(full("Lute")))).text).split())
    answers = ("ended by itself after 13 tokens", "cut after 9 tokens")
    for expected in (*answers, "Lute at 100", "Lute at 200", "12,345", "8,888", "4,444 equal_answers", "2.0 MB", "0.0850", "3m20s"):
        assert expected in text


def test_the_tokenizer_is_shown_by_its_tokens_and_its_sources() -> None:
    page = report_html(full("Lute"))
    assert '<span class="tone-1" title="5">Lute</span><span class="tone-2" title="777"> cut</span>' in page
    for expected in ("3.220", "2.52", "25.0%", "1,234"):
        assert expected in page
    assert "unreachable" not in page


def test_samples_are_in_the_order_of_steps() -> None:
    page = report_html(full("Lute"))
    assert page.index("Lute at 100") < page.index("Lute at 200")


def test_parts_that_are_not_there_leave_no_trace() -> None:
    page = report_html(ReportData(title="bare"))
    assert len(page) < 60_000
    assert "<h2>" not in page and "<section" not in page
    only_base = report_html(ReportData(title="base", answers=[{"question": "Why?", "base": {"answer": "", "tokens": 0}}]))
    assert "base against tuned" not in only_base and "(nothing)" in only_base


def test_bits_per_byte_of_the_training_loss() -> None:
    found = charts(report_html(full()))
    assert found["bitsPerNat"] == pytest.approx(0.28 / math.log(2))
    assert charts(report_html(ReportData(title="x", pretrain=metrics(2))))["bitsPerNat"] is None


def test_losses_that_are_not_per_token_say_so() -> None:
    stages = [{"kind": kind, "name": kind, "metrics": metrics(3), "samples": [], "found": []} for kind in ("sft", "dpo", "grpo")]
    titles = [drawn.get("title") for drawn in charts(report_html(ReportData("x", post=stages)))["post"]]
    assert titles == [None, "loss, nats per pair", "loss in training; held out: 1 - mean reward"]


@pytest.mark.parametrize("steps", [1, 2999, 3001, 20_000])
def test_long_runs_are_thinned_but_keep_their_end_and_every_validation(steps: int) -> None:
    found = charts(report_html(ReportData(title="x", pretrain=metrics(steps))))["pretrain"]
    assert len(found["train"]) <= MAX_POINTS
    assert found["train"][-1]["step"] == steps
    assert len(found["val"]) == steps // 100


def test_numbers_that_are_none() -> None:
    rows = [{"step": 1, "train/loss": float("nan"), "lr": float("inf")}, {"step": 2, "train/loss": None}]
    found = charts(report_html(ReportData(title="x", pretrain=rows)))
    assert found["pretrain"]["train"] == [{"step": 1, "train/loss": None, "lr": None}]

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.reading.html import page_text
from luthier.data.report import SourceReport

Read = Callable[..., tuple[list[dict[str, Any]], SourceReport]]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One <b>bo</b>ld\n word.<p>Two.", "One bold word.\n\nTwo."),
        ("<h1>Head</h1>Text<br>next<div>block</div>tail", "Head\n\nText\nnext\n\nblock\n\ntail"),
        ("<ul><li>a<li>b</ul>c", "a\nb\n\nc"),
        ("<table><tr><th>x<td>1<tr><td>y<td>2</table>", "x 1\ny 2"),
        ("<pre>  if x:\n    y  \n</pre>z", "  if x:\n    y\n\nz"),
        ("a<script>no<b></script>b<style>no</style><!-- no -->c<p hidden>no</p>d<template>no</template>", "abcd"),
        ("5 &lt; 6 &amp;&nbsp;&#x17e;", "5 < 6 & ž"),
        ("just text", "just text"),
        ("", ""),
        ("<p>  <div></div>", ""),
    ],
)
def test_what_is_seen_is_kept_in_paragraphs(html: str, text: str) -> None:
    assert page_text(html) == ("", text)


def test_a_page_is_a_record_with_its_title(tmp_path: Path, read: Read) -> None:
    (tmp_path / "bear.html").write_text("<html><head><title> The\n bear </title></head><body><p>It sleeps.</body></html>")
    (tmp_path / "fox.htm").write_text("<p>It runs.")
    (tmp_path / "void.html").write_text("<script>x</script>")
    records, report = read(tmp_path)
    assert records == [{"title": "The bear", "text": "It sleeps."}, {"title": "fox", "text": "It runs."}]
    assert report.dropped == {"page_without_text": 1}


def test_the_encoding_a_page_names_is_used(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.html").write_bytes('<meta charset="iso-8859-2"><p>žluťoučký kůň'.encode("iso-8859-2"))
    (tmp_path / "b.html").write_bytes(b'<meta charset="rot13"><p>caf' + b"\xe9")
    (tmp_path / "c.html").write_bytes("<p>žluť".encode("utf-16"))
    records, report = read(tmp_path)
    assert [record["text"] for record in records] == ["žluťoučký kůň", "caf\ufffd", "žluť"]
    assert report.repaired == {"declared_encoding": 1, "invalid_utf8": 1}


@pytest.mark.parametrize("hostile", ["<div>", "<p><b>", '<a href="x', "<!--", "&#", "<table>", "<a <", "</p>", "<pre>"])
def test_hostile_pages_end_soon(hostile: str) -> None:
    """D1."""
    begin = time.monotonic()
    page_text("start " + hostile * (1_000_000 // len(hostile)))
    assert time.monotonic() - begin < 10


@given(st.text(max_size=200))
def test_any_text_is_a_page(text: str) -> None:
    title, seen = page_text(text)
    assert seen == seen.strip("\n") and "\n\n\n" not in seen and title == title.strip()

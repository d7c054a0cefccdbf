# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Text of a web page. In: chunks of HTML. Out: one record with its title and its visible text in paragraphs. Next: readers."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Any

from luthier.data.reading.formats import title_of
from luthier.data.reading.streams import UnreadableFile, as_utf8, decode
from luthier.data.report import SourceReport

HTML_CAP = 2**26
_UNSEEN = tuple(re.findall(r"\w+", "script style noscript template svg math iframe object canvas audio video select datalist"))
_BLOCKS = tuple(
    re.findall(
        r"\w+",
        "address article aside blockquote center dd details dialog div dl fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header "
        "hgroup hr legend main nav ol p pre section summary table ul",
    )
)
_LINES = ("br", "caption", "dt", "li", "tr")
_CELLS = ("td", "th")
_BLOCK, _LINE, _PRE = "\ue0b0", "\ue0b1", "\ue0b2"
_MARKS = re.compile(f"[{_BLOCK}{_LINE}{_PRE}]")
_DECLARED = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""")
_HEAD_BYTES = 2048


def html_records(name: str, chunks: Iterable[bytes], report: SourceReport) -> Iterator[dict[str, Any]]:
    """Read one page; one without any text gives no record.

    Raises: UnreadableFile when it is too large to be a page.
    """
    data = bytearray()
    for chunk in as_utf8(chunks, report):
        data += chunk
        if len(data) > HTML_CAP:
            raise UnreadableFile("html_too_large")
    title, text = page_text(_decoded(bytes(data), report))
    if text:
        yield {"title": title or title_of(name), "text": text}
    elif data.strip():
        report.drop("page_without_text", offset=0)


def page_text(html: str) -> tuple[str, str]:
    """Give a page's title and its visible text: an empty line between blocks, a line for each list item and table row."""
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", no_network=True, remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = etree.fromstring(_MARKS.sub("", html).encode("utf-8", "replace"), parser)
    except etree.LxmlError:
        root = None
    if root is None:
        return "", ""
    title = " ".join("".join(root.xpath("string(//title[1])")).split())
    for hidden in root.xpath("//*[@hidden]"):
        hidden.tag = "script"
    etree.strip_elements(root, "head", *_UNSEEN, with_tail=False)
    for tags, mark in ((_BLOCKS, _BLOCK), (_LINES, _LINE), (_CELLS, " ")):
        for element in root.iter(*tags):
            element.text = f"{mark}{_PRE if element.tag == 'pre' else ''}{element.text or ''}"
            element.tail = f"{mark}{element.tail or ''}"
    return title, _laid_out(etree.tostring(root, method="text", encoding="unicode", with_tail=False))


def _laid_out(marked: str) -> str:
    """Turn marks into line breaks and all other white space into single spaces, but for what is preformatted."""
    blocks: list[str] = []
    for block in marked.split(_BLOCK):
        if block.startswith(_PRE):
            lines = [line.rstrip() for line in block[1:].replace(_LINE, "\n").splitlines()]
            text = "\n".join(lines).strip("\n")
        else:
            text = "\n".join(line for row in block.split(_LINE) if (line := " ".join(row.split())))
        if text:
            blocks.append(text)
    return "\n\n".join(blocks)


def _decoded(data: bytes, report: SourceReport) -> str:
    """Decode UTF-8 or, where it is not, the encoding that the page names."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    declared = _DECLARED.search(data[:_HEAD_BYTES])
    if declared:
        try:
            codec = codecs.lookup(declared[1].decode("ascii"))
            if codec._is_text_encoding and codec.name != "utf-8":
                text = data.decode(codec.name, "replace")
                report.repair("declared_encoding")
                return text
        except LookupError:
            pass
    return decode(data, report)

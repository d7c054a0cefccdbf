"""Personal data. In: a text. Out: the text with placeholders, and how many of each. Next: apply.

IP addresses that belong to nobody stay: those of private networks, of the machine itself, of documentation. Every pattern is bounded in
length, so the time is linear in the text, whatever it is. A placeholder is no personal data, so masking twice is masking once.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection

from luthier.config.data import Personal

PLACEHOLDERS: dict[Personal, str] = {"email": "<email>", "phone": "<phone>", "ip": "<ip>"}

_ALL = tuple(PLACEHOLDERS.values())
_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_LONGEST_LOCAL, _LONGEST_DOMAIN = 64, 255
_APART = "".join(f"(?<!{placeholder})" for placeholder in _ALL)
_NO_MORE = f"(?!{'|'.join(_ALL)})"
"""What touches a placeholder stays: it did not stand alone before either."""
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])", re.ASCII)
_IPV4 = re.compile(rf"(?<![\w.]){_APART}[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}(?![\w-]|\.[0-9]){_NO_MORE}")
_IPV6 = re.compile(rf"(?<![\w:.]){_APART}[23][0-9A-Fa-f]{{3}}:[0-9A-Fa-f:]{{1,35}}(?![\w:]){_NO_MORE}")
_PHONE = re.compile(
    rf"(?<![\w.+/-]){_APART}(?:"
    r"\+[0-9](?:[ .()/-]{0,2}[0-9]){7,14}"  # with the country's code
    r"|(?:1[ .-])?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"  # North America
    r"|\(?0[0-9]{2,4}\)?[ /-][0-9]{3,4}[ -]?[0-9]{3,4}"  # others, with the leading zero
    rf")(?![\w/-]|\.[0-9]){_NO_MORE}"
)

# Quick looks at a text's outline: digits as 0, full stops and plus signs as they are, other separators as hyphens, all else as x.
_OUTLINE = bytes(48 if 48 <= c < 58 else c if c in b".+" else 45 if c in b" ()/-" else 120 for c in range(256))
_PHONE_OUTLINES = (b"000-000", b"000.000", b"000000", b"+0")
_IPV4_OUTLINE = re.compile(rb"0\.0{1,3}\.0{1,3}\.0")
_IPV6_OUTLINE = re.compile(r":[0-9A-Fa-f]{0,4}:")


def mask_personal(text: str, kinds: Collection[Personal]) -> tuple[str, Counter[Personal]]:
    """Replace e-mail, telephone and IP addresses by `PLACEHOLDERS`."""
    counts: Counter[Personal] = Counter()
    for kind, mask in _MASKS.items():
        if kind in kinds:
            text, count = mask(text)
            if count:
                counts[kind] = count
    return text, counts


def _mask_emails(text: str) -> tuple[str, int]:
    at, done, count = text.find("@"), 0, 0
    pieces: list[str] = []
    while at >= 0:
        before = text[max(done, at - _LONGEST_LOCAL - 1) : at]
        rest = before.rstrip(_LOCAL)
        local = before[len(rest) :].lstrip(".%+-")
        possible = 0 < len(local) <= _LONGEST_LOCAL and not rest.endswith(_ALL)
        domain = _DOMAIN.match(text, at + 1, at + 1 + _LONGEST_DOMAIN) if possible else None
        if domain:
            pieces += [text[done : at - len(local)], PLACEHOLDERS["email"]]
            done = domain.end()
            count += 1
        at = text.find("@", max(done, at + 1))
    return "".join([*pieces, text[done:]]) if count else text, count


def _mask_phones(text: str) -> tuple[str, int]:
    outline = _outline(text)
    if not any(part in outline for part in _PHONE_OUTLINES):
        return text, 0
    return _PHONE.subn(PLACEHOLDERS["phone"], text)


def _mask_addresses(text: str) -> tuple[str, int]:
    count = more = 0
    if _IPV4_OUTLINE.search(_outline(text)):
        text, count = _mask_where(_IPV4, _belongs_to_somebody, text)
    if _IPV6_OUTLINE.search(text):
        text, more = _mask_where(_IPV6, _belongs_to_somebody, text)
    return text, count + more


def _outline(text: str) -> bytes:
    return text.encode("utf-8", "replace").translate(_OUTLINE)


def _mask_where(pattern: re.Pattern[str], holds: Callable[[str], bool], text: str) -> tuple[str, int]:
    count = 0

    def _replace(match: re.Match[str]) -> str:
        nonlocal count
        if not holds(match[0]):
            return match[0]
        count += 1
        return PLACEHOLDERS["ip"]

    return pattern.sub(_replace, text), count


def _belongs_to_somebody(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


_MASKS: dict[Personal, Callable[[str], tuple[str, int]]] = {"email": _mask_emails, "phone": _mask_phones, "ip": _mask_addresses}

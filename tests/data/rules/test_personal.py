from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.config.data import Personal
from luthier.data.rules import personal
from luthier.data.rules.personal import PLACEHOLDERS, mask_personal

ALL: tuple[Personal, ...] = ("email", "phone", "ip")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to anna.b+c@mail.example.org.", "Write to <email>."),
        ("(a@b.co, x_1@y-z.info)", "(<email>, <email>)"),
        ("<john@example.com>john@example.com", "<<email>><email>"),
        ("Call +44 20 7946 0958 now", "Call <phone> now"),
        ("or (555) 234-5678, 555-234-5678, 1-555-234-5678", "or <phone>, <phone>, <phone>"),
        ("Tel. 030/1234 567, +49 (30) 1234567.", "Tel. <phone>, <phone>."),
        ("Tel. 030 1234 567", "Tel. <phone>"),
        ("from 8.8.8.8, port 80", "from <ip>, port 80"),
        ("at 2001:4860:4860::8888 and 2606:4700:0:0:0:0:0:1111", "at <ip> and <ip>"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask_personal(text, ALL)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "at home @ work, user@, @name, a@b, me@localhost",
        "from 1914 to 1918, on 2015-01-31, 12:30, 3.14, 1,000,000, 1990-1995, pages 100-200",
        "ISBN 978-0-306-40615-7 and 0-306-40615-2",
        "192.168.0.1 10.0.0.1 127.0.0.1 192.0.2.7 999.1.1.1 1.2.3 1.2.3.4.5",
        "std::vector face::bad ::1 fe80::1 2001:db8::1 12:34:56",
        "call number 12345678901234567890",
    ],
)
def test_what_is_no_personal_data_stays(text: str) -> None:
    assert mask_personal(text, ALL) == (text, Counter())


@given(
    st.lists(st.sampled_from(["0", "1", "55", "234", "030", "4567", " ", ".", "-", "(", ")", ") ", "/", "+", "+4", "a", ":"])).map("".join)
)
def test_the_quick_look_misses_nothing(text: str) -> None:
    """What the pattern finds in a text is found whether or not another number is there to look at."""
    assert personal._PHONE.subn("<phone>", text) == personal._mask_phones(text)
    assert bool(personal._IPV4.search(text)) <= bool(personal._IPV4_OUTLINE.search(personal._outline(text)))


def test_only_the_kinds_asked_for_are_masked_and_counted() -> None:
    text = "a@b.org c@d.org 8.8.8.8 +1 555 234 5678"
    assert mask_personal(text, ("email",)) == ("<email> <email> 8.8.8.8 +1 555 234 5678", Counter(email=2))
    assert mask_personal(text, ALL) == ("<email> <email> <ip> <phone>", Counter(email=2, ip=1, phone=1))
    assert mask_personal(text, ()) == (text, Counter())


pieces = ["a@b.org", "@", "a", ".", " ", "555-234-5678", "+44 20 7946 0958", "8.8.8.8", "2001:4860::8888", ":", "-", "(", "1", "0", "\n"]


@given(st.lists(st.sampled_from([*pieces, *PLACEHOLDERS.values()])).map("".join))
def test_masking_twice_is_masking_once(text: str) -> None:
    once = mask_personal(text, ALL)[0]
    assert mask_personal(once, ALL) == (once, Counter())


HOSTILE = ["a", "@", "a@", "a.", "a@a.", "a@a-", "1", "1.", "1-", "+1", "+1 ", "(1", "0 ", ":", "2a:", "2001:", "2001::", "1.1.1.", "555 "]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece)) + "@a." * 2
    start = time.perf_counter()
    masked, _ = mask_personal(text, ALL)
    assert time.perf_counter() - start < 2
    assert masked.endswith("@a.")

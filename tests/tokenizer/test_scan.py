"""The compiled scanner against the patterns that it stands for."""

from __future__ import annotations

import random

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.tokenizer import patterns
from luthier.tokenizer.patterns import PATTERNS, PatternName, Splitter, later_than_unicode_16
from luthier.tokenizer.scan import LETTER, NEWLINE, NUMBER, OTHER, PATTERN_NUMBERS, SPACE, character_classes, split_bytes

NAMES: list[PatternName] = list(PATTERNS)
PIECES = [
    *"abcdelmrstvzABDELMRSTVkK",
    *"''''’`",
    *"     \n\n\r\r\t\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u180e\u200b\ufeff",
    *"0123456789٣५½Ⅷ〇²",
    *"\u017f\u212aßéſǅʰªłœØÞ",
    *"Жщіґ中文字あアいン한국어ไทยกำहिंदीעבריתعربيΩλԱբმეአማ",
    *"\u0301\u0915\u093f\u200d\u20dd😀👍🏽𝔘𐍈\U0001f1e9\U000e0001",
    *".,!?_-()[]{}#/\\<>|&%$§©™°",
    *"\x00\x7f\ue000\ufffd\uffff\U0010ffff\u0378\u0558\u088f\ua7ce\U0001e6c0\U000323b0",
    "'s", "'LL", "'ſ", "'re", "\r\n", "\n\n", "   ", " \x0c", "<|endoftext|>", "1234", "http://",
]  # fmt: skip


def expected(text: str, name: PatternName) -> list[bytes]:
    return [piece.encode() for piece in Splitter(name).split(text)]


@pytest.mark.parametrize("name", NAMES)
def test_random_strings_are_split_as_by_the_pattern(name: PatternName) -> None:
    generator = random.Random(4)
    split = Splitter(name).split
    for _ in range(100_000):
        text = "".join(generator.choices(PIECES, k=generator.randint(1, 12)))
        assert split_bytes(text.encode(), name) == [piece.encode() for piece in split(text)], ascii(text)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_split_as_by_the_pattern(name: PatternName, text: str) -> None:
    assert split_bytes(text.encode(), name) == expected(text, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piece", ["a", "é", "字", "7", "٣", " ", "\n", "\r\n", "\x0c", "\u3000", "!", "😀", "'", "\u0301"])
@pytest.mark.parametrize("around", [("", ""), (" ", "x"), ("x", " "), ("  ", "9"), ("\n", "!"), (".", "\n"), ("'", "s")])
def test_long_runs_are_split_as_by_the_pattern(name: PatternName, piece: str, around: tuple[str, str]) -> None:
    text = around[0] + piece * 5000 + around[1]
    assert split_bytes(text.encode(), name) == expected(text, name)


@pytest.mark.parametrize("name", NAMES)
def test_each_code_point_is_split_as_by_the_pattern(name: PatternName) -> None:
    every = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    text = "".join(f"a{character}1 {character}" for character in every[::7] + every[:0x3000])
    assert split_bytes(text.encode(), name) == expected(text, name)


@pytest.mark.parametrize(
    ("text", "name", "pieces"),
    [
        ("a \x0cb", "gpt4", ["a", " ", "\x0cb"]),
        ("a \x0cb", "gpt2", ["a", " ", "\x0c", "b"]),
        ("it'\u017f 1", "gpt4", ["it", "'\u017f", " ", "1"]),
        ("it'\u017f", "gpt2", ["it", "'", "\u017f"]),
        ("2\u212a 12345", "digits", ["2", "\u212a", " ", "1", "2", "3", "4", "5"]),
        ("a!\r\n\r\nb", "gpt4", ["a", "!\r\n\r\n", "b"]),
        ("a \n \n  b", "gpt4", ["a", " \n \n", " ", " b"]),
        ("", "gpt4", []),
    ],
)  # fmt: skip
def test_what_fast_scanners_get_wrong(text: str, name: PatternName, pieces: list[str]) -> None:
    assert split_bytes(text.encode(), name) == [piece.encode() for piece in pieces] == expected(text, name)


def test_classes_are_those_of_the_expressions() -> None:
    classes = character_classes()
    numbers = {r"\p{L}": LETTER, r"\p{N}": NUMBER, r"[^\S\r\n]": SPACE, r"[\r\n]": NEWLINE}
    later = {code for first, last in later_than_unicode_16() for code in range(first, last + 1)}
    for code in [*range(0x3000), *range(0x3000, 0x110000, 11), *list(later)[::11]]:
        found = [number for expression, number in numbers.items() if regex.match(expression, chr(code))]
        assert [classes[code]] == ([OTHER] if code in later or not found else found), hex(code)
    assert classes.shape == (0x110000,) and classes.dtype == np.uint8
    assert classes[0x0558] == OTHER  # later than Unicode 16
    with pytest.raises(ValueError):
        classes[0] = 1


def test_each_pattern_has_a_number() -> None:
    assert set(PATTERN_NUMBERS) == set(PATTERNS)
    assert len(set(PATTERN_NUMBERS.values())) == len(PATTERNS)


def test_the_quick_look_misses_no_later_letter_or_number() -> None:
    for first, last in patterns.later_than_unicode_16():
        assert all(patterns._PERHAPS_LATER.search(chr(code)) for code in range(first, last + 1))

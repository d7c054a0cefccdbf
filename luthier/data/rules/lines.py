"""C4's edits: lines that are no text are removed, readably. In: a text. Out: the text without them. Next: filters."""

from __future__ import annotations

from luthier.config.data import C4, FilterSection
from luthier.data.rules.measures import ends_sentence

POLICIES = (b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies", b"use of cookies", b"use cookies")
JAVASCRIPT = (b"javascript",)
END_QUOTES = ('"', "'", "\u201d", "\u2019", "\u00bb")


def edits(settings: FilterSection) -> bool:
    """Say whether the settings remove any lines at all."""
    c4 = settings.c4
    active = c4.lines_end_in_punctuation or c4.min_line_words > 0 or c4.remove_javascript_lines or c4.remove_policy_lines
    return "c4" in settings.rules and active


def unwanted(settings: C4) -> tuple[bytes, ...]:
    """The phrases that a line may not have, in small letters."""
    return JAVASCRIPT * settings.remove_javascript_lines + POLICIES * settings.remove_policy_lines


def edit(text: str, settings: FilterSection) -> str:
    """Remove the lines that C4's rules do not keep; blank ones stay, and those around a removed line become one.

    Nothing changes where no line is removed, or where C4's rules are not asked for.
    """
    return remove_lines(text, settings.c4) if edits(settings) else text


def remove_lines(text: str, settings: C4) -> str:
    """Do what `edit` says by C4's settings."""
    phrases = unwanted(settings)
    lines = text.split("\n")
    keep = [not line.split() or _is_kept(line, settings, phrases) for line in lines]
    if all(keep):
        return text
    kept: list[str] = []
    gap = False
    for line, good in zip(lines, keep, strict=True):
        blank = not line.split()
        if not good:
            gap = True
        elif not (gap and blank and (not kept or not kept[-1].split())):
            kept.append(line)
            gap = gap and blank
    while kept and not kept[-1].split():
        kept.pop()
    return "\n".join(kept)


def _is_kept(line: str, settings: C4, phrases: tuple[bytes, ...]) -> bool:
    words = line.split()
    if len(words) < settings.min_line_words:
        return False
    if settings.lines_end_in_punctuation and not (ends_sentence(words[-1]) or words[-1].endswith(END_QUOTES)):
        return False
    small = line.encode("utf-8").lower()
    return not any(phrase in small for phrase in phrases)

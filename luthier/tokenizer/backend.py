"""Which code trains: the compiled one where it works and pays, else the readable one. In: texts, counts. Out: counts, merges. Next: train.

Both give the same; only the time differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from luthier.runs.fallback import why_not
from luthier.runs.progress import Progress
from luthier.tokenizer.bpe import Pair, train_merges
from luthier.tokenizer.patterns import PatternName, Splitter, well_formed

SMALL_BYTES = 2 * 10**6
"""The readable code is through with so much text before the kernels are compiled."""
SMALL_WORDS = 5000


def count_pretokens(
    texts: Iterable[str], pattern: PatternName, progress: Progress, total_bytes: int | None, shards: Iterable[Path] | None = None
) -> Mapping[bytes, int]:
    """Count each distinct pre-token, as UTF-8. Memory grows with the distinct ones, not with the text, and is bounded.

    `shards`, where they are known, are the Parquet files that the texts are from: the kernels read them without strings.
    """
    if (total_bytes is None or total_bytes > SMALL_BYTES) and _works(progress):
        from luthier.tokenizer.counting import count_parquet, count_texts

        if shards is not None:
            return count_parquet(shards, "text", pattern, progress, total_bytes)
        return count_texts(texts, pattern, progress, total_bytes)
    return count_pretokens_readable(texts, pattern, progress, total_bytes)


def learn_merges(counts: Mapping[bytes, int], n_merges: int, progress: Progress, first: Sequence[Pair] = ()) -> list[Pair]:
    """Learn up to `n_merges` merges, after those of `first`, which an existing tokenizer has; fewer when no pair is left."""
    if len(counts) > SMALL_WORDS and _works(progress):
        from luthier.tokenizer.merging import train_merges_compiled

        return train_merges_compiled(counts, n_merges, progress, first)
    return train_merges(counts, n_merges, progress, first)


def count_pretokens_readable(texts: Iterable[str], pattern: PatternName, progress: Progress, total_bytes: int | None) -> dict[bytes, int]:
    """Count each distinct pre-token by the pattern itself."""
    split = Splitter(pattern).split
    counts: Counter[str] = Counter()
    with progress.bar("counting", total_bytes, "bytes") as bar:
        for text in texts:
            text = well_formed(text)
            counts.update(split(text))
            bar.advance(len(text.encode("utf-8")))
    return {word.encode("utf-8"): count for word, count in counts.items()}


def why_not_compiled() -> str | None:
    """Say why the kernels cannot be used; `None` when they give what the readable code does.

    The first call on a machine compiles them, which takes seconds.
    """
    return why_not(_agree)


def _agree() -> bool:
    from luthier.tokenizer.counting import count_texts
    from luthier.tokenizer.merging import train_merges_compiled

    text, first = "the thinner thing, there and here: 12345 \u00e9\u5b57\n", [(ord("t"), ord("h"))]
    counts = count_texts([text], "gpt4", Progress(), None, threads=1)
    merges = train_merges_compiled(counts, 9, Progress(), first)
    expected = count_pretokens_readable([text], "gpt4", Progress(), None)
    return counts == expected and merges == train_merges(expected, 9, Progress(), first)


@cache
def _reason() -> str | None:
    return why_not_compiled()


def _works(progress: Progress) -> bool:
    known = _reason.cache_info().currsize > 0
    if not known:
        _say_if_compiling(progress)
    reason = _reason()
    if reason and not known:
        progress.warn(f"the tokenizer trains by code that is not compiled, which takes longer: numba does not work here ({reason})")
    return reason is None


def _say_if_compiling(progress: Progress) -> None:
    try:
        from luthier.runs.compiling import say_if_compiling
        from luthier.tokenizer.counting_kernels import count_documents
        from luthier.tokenizer.merging_kernels import merge_best
    except Exception:  # the reason is found and told by the caller
        return
    say_if_compiling(progress, count_documents, merge_best)

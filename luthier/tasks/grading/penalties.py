"""What is taken off a reward for how something is said. In: a text or its length. Out: a penalty in [0, 1]. Next room: post."""

from __future__ import annotations


def length_penalty(length: int, longest: int, margin: int) -> float:
    """Give 0 up to `longest - margin`, 1 beyond `longest`, a line between.

    Units: tokens, or whatever the three are counted in
    Source: Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.4.
    """
    if length > longest:
        return 1.0
    return max(0.0, (length - (longest - margin)) / margin) if margin > 0 else 0.0


def repetition_penalty(text: str, ngram: int = 3) -> float:
    """Give the share of word n-grams that were there before: 0 for none, near 1 for one phrase over and over.

    Source: Yeo et al. 2025, arXiv:2502.03373, appendix (n-gram repetition penalty).
    """
    words = text.casefold().split()
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0

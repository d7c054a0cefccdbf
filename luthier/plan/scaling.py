"""What loss to expect. In: parameters, tokens, the vocabulary. Out: a band. Next: report.

Two published laws, each fitted to one-pass training on web text, stand for the two edges: Kaplan's reaches down to thousands of
parameters but supposes training to the end; Hoffmann's supposes one pass with a fitting schedule but begins at 70M parameters, and
below that it is too dark. Each is stated for its own tokenizer, so both go through bits per byte. Rough by nature: the text matters
as much as the size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.plan.horizon import bytes_per_token

_HOFFMANN_VOCABULARY = 32_000
_KAPLAN_VOCABULARY = 50_257
_FITTED_FROM_PARAMS = 70e6
_FITTED_FROM_TOKENS = 5e9


@dataclass(frozen=True)
class ExpectedLoss:
    """A band of validation losses.

    Units: `low` and `high` in nats per token of our tokenizer, the `bpb_` fields in bits per byte
    """

    low: float
    high: float
    bpb_low: float
    bpb_high: float
    extrapolated: bool
    """Whether the model or its tokens are below what Hoffmann et al. trained."""


def hoffmann(params: float, tokens: float) -> float:
    """Loss of a model trained once over `tokens`.

    Units: nats per token of a vocabulary of 32,000
    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3: E = 1.69, A = 406.4, B = 410.7, alpha = 0.34, beta = 0.28.
    """
    return 1.69 + 406.4 / params**0.34 + 410.7 / tokens**0.28


def kaplan(non_embedding_params: float, tokens: float) -> float:
    """Loss of a model trained to the end on `tokens`.

    Units: nats per token of a vocabulary of 50,257
    Source: Kaplan et al. 2020, arXiv:2001.08361, equation 1.5 and table 2: alpha_N = 0.076, alpha_D = 0.103, N_c = 6.4e13, D_c = 1.8e13.
    """
    return ((6.4e13 / non_embedding_params) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103


def expected_loss(params: int, non_embedding_params: int, tokens: int, vocab_size: int) -> ExpectedLoss:
    """Give the band between the two laws, in our tokens; guessing evenly, ln V, is the worst there is."""
    nats_per_bit_and_byte = math.log(2) * bytes_per_token(vocab_size)
    per_byte = (
        hoffmann(params, tokens) / bytes_per_token(_HOFFMANN_VOCABULARY),
        kaplan(non_embedding_params, tokens) / bytes_per_token(_KAPLAN_VOCABULARY),
    )
    low, high = (min(edge * bytes_per_token(vocab_size), math.log(vocab_size)) for edge in sorted(per_byte))
    return ExpectedLoss(
        low=low,
        high=high,
        bpb_low=low / nats_per_bit_and_byte,
        bpb_high=high / nats_per_bit_and_byte,
        extrapolated=params < _FITTED_FROM_PARAMS or tokens < _FITTED_FROM_TOKENS,
    )

"""Preference objectives: DPO, IPO, ORPO, SimPO. In: rows of pairs, the reference's log-probabilities. Out: a loss, and measures of it.

Next: the stage dpo. A row's document 2i is the chosen side of pair i, 2i + 1 the rejected one; targets are the answers' tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.config.post import DpoSection
from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, gather, spread_rows
from luthier.pack.preferences import PreferenceRows
from luthier.post.logprobs import Logits, token_logprobs
from luthier.post.pairs import PairMeasures
from luthier.train.device import within_memory
from luthier.train.objective import Rows, micro_batches

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Pairs:
    """Log-probabilities of whole answers, by the model and by the reference, and how many tokens the answers have.

    Shapes: each (P, 2): chosen, rejected
    Units: nats
    """

    logprobs: Tensor
    reference: Tensor
    tokens: Tensor

    @property
    def chosen_longer(self) -> Tensor:
        """Whether the chosen answer is the longer one: (P,)"""
        return self.tokens[:, 0] > self.tokens[:, 1]


def answers(logprobs: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Add up the log-probabilities of each answer; return the pairs' numbers, the sums and the counts of tokens.

    Shapes: logprobs (B, T) -> (P,), (P, 2), (P, 2)
    """
    assert rows.doc_ids is not None, "rows of pairs have document numbers"
    counted = rows.targets != IGNORE_INDEX  # (B, T)
    documents, where = torch.unique(rows.doc_ids[counted], return_inverse=True)  # (2P,), ascending: both sides of a pair in turn
    sums = logprobs.new_zeros(len(documents)).index_add(0, where, logprobs[counted])
    tokens = torch.bincount(where, minlength=len(documents))
    return documents[::2] // 2, sums.view(-1, 2), tokens.view(-1, 2)


def preference_losses(pairs: Pairs, settings: DpoSection) -> Tensor:
    """The loss of each pair.

    With d the difference of log-ratios to the reference, a the mean log-probability of an answer's tokens, s the logistic function:

    - sigmoid: -(1 - e) log s(beta d) - e log s(-beta d), e = `label_smoothing`. Source: Rafailov et al. 2023, arXiv:2305.18290,
      equation 7; with e, Mitchell 2023, "A note on DPO with noisy preferences".
    - ipo: (d' - 1 / (2 beta))^2, d' from means over tokens. Source: Azar et al. 2023, arXiv:2310.12036, equation 17.
    - orpo: -a_chosen - beta log s(log odds_chosen - log odds_rejected), odds from a. Source: Hong et al. 2024, arXiv:2403.07691, section 4.
    - simpo: -(1 - e) log s(z) - e log s(-z), z = beta (a_chosen - a_rejected) - gamma. Source: Meng et al. 2024, arXiv:2405.14734,
      equation 6.

    Shapes: -> (P,)
    """
    beta, smoothing = settings.beta, settings.label_smoothing
    if settings.loss == "ipo":
        means = (pairs.logprobs - pairs.reference) / pairs.tokens  # (P, 2)
        return (means[:, 0] - means[:, 1] - 1 / (2 * beta)).square()
    if settings.loss == "orpo":
        means = pairs.logprobs / pairs.tokens
        odds = means - _log1mexp(means)
        return -means[:, 0] - beta * F.logsigmoid(odds[:, 0] - odds[:, 1])
    rewards = implicit_rewards(pairs, settings)
    margins = rewards[:, 0] - rewards[:, 1] - (settings.gamma if settings.loss == "simpo" else 0.0)
    return -(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins)


def implicit_rewards(pairs: Pairs, settings: DpoSection) -> Tensor:
    """What the model says an answer is worth: beta times its log-ratio to the reference, or its mean log-probability where there is none.

    Shapes: -> (P, 2)
    """
    if settings.needs_reference:
        return settings.beta * (pairs.logprobs - pairs.reference)
    return settings.beta * pairs.logprobs / pairs.tokens


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x below 0. Source: Mächler 2012, "Accurately computing log(1 - exp(-|a|))"."""
    return torch.where(x > -0.6931471805599453, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


class PreferenceObjective(PairMeasures):
    """Mean preference loss over a step's pairs."""

    measures = ("margin", "accuracy", "chosen_reward", "rejected_reward", "chosen_logprob", "rejected_logprob", "chosen_longer")

    def __init__(self, settings: DpoSection, reference: Tensor, softcap: float | None = None) -> None:
        """`reference` are the reference's log-probabilities of all pairs, on the device; `softcap` is the model's. Shapes: (pairs, 2)"""
        super().__init__(reference.device)
        self._settings, self._reference, self._how = settings, reference, Logits(softcap)

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return the micro-batch's share of the mean loss over `n_targets` pairs."""
        hidden = forward(rows.inputs, doc_ids=rows.doc_ids)  # (B, T, D)
        logprobs, _ = token_logprobs(hidden, head_weight, rows.targets, self._how)  # (B, T)
        numbers, sums, tokens = answers(logprobs, rows)
        pairs = Pairs(sums, self._reference[numbers], tokens)
        with torch.no_grad():
            rewards = implicit_rewards(pairs, self._settings)
            margins = rewards[:, 0] - rewards[:, 1]
            shown = (margins, margins > 0, *rewards.unbind(1), *sums.unbind(1), pairs.chosen_longer)
            self.note(shown, n_targets)
        return preference_losses(pairs, self._settings).sum() / max(1, n_targets)


@torch.inference_mode()
def pair_logprobs(
    model: Decoder, rows: PreferenceRows, device: str, n_rows: int | None = None, exact: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the answers in `n_rows` rows from all over, or in all; fewer rows at once when memory runs out.

    `exact` computes in fp32, whatever the model trains in: what bf16 rounds away decides some pairs.

    Shapes: -> numbers of the pairs (P,), ascending; log-probabilities (P, 2); tokens (P, 2); on the CPU
    """
    some, how = spread_rows(rows.n_rows, n_rows or rows.n_rows), Logits(model.config.logit_softcap)

    def attempt(at_once: int) -> list[tuple[Tensor, ...]]:
        found: list[tuple[Tensor, ...]] = []
        for start in range(0, len(some), at_once):
            (part,) = micro_batches(gather(rows, some[start : start + at_once]), at_once, device)
            hidden = model(part.inputs, doc_ids=part.doc_ids)  # (B, T, D)
            logprobs, _ = token_logprobs(hidden, model.head_weight, part.targets, how)
            found.append(tuple(values.cpu() for values in answers(logprobs, part)))
        return found

    with _in_fp32(model) if exact else nullcontext():
        found, _ = within_memory(attempt, ROWS_AT_ONCE, device)
    numbers, logprobs, tokens = (torch.cat(values) for values in zip(*found, strict=True))
    order = numbers.argsort()
    return numbers[order], logprobs[order], tokens[order]


@contextmanager
def _in_fp32(model: Decoder) -> Iterator[None]:
    """With the attention that needs no trying: what was chosen was tried with another type."""
    before = model.compute_dtype, model.attention
    model.compute_dtype, model.attention = torch.float32, "auto"
    try:
        yield
    finally:
        model.compute_dtype, model.attention = before


def figures(pairs: Pairs, settings: DpoSection) -> dict[str, float]:
    """What held-out pairs say: loss, margins, accuracy, and how far accuracy hangs on which answer is longer.

    Units: log-probabilities of whole answers in nats; lengths in tokens
    """
    rewards = implicit_rewards(pairs, settings)
    margins = rewards[:, 0] - rewards[:, 1]
    right, longer, lengths = (margins > 0).float(), pairs.chosen_longer, pairs.tokens.float().mean(0)
    found = {
        "loss": preference_losses(pairs, settings).mean(),
        "accuracy": right.mean(),
        "margin": margins.mean(),
        "chosen_reward": rewards[:, 0].mean(),
        "rejected_reward": rewards[:, 1].mean(),
        "chosen_logprob": pairs.logprobs[:, 0].mean(),
        "rejected_logprob": pairs.logprobs[:, 1].mean(),
        "chosen_tokens": lengths[0],
        "rejected_tokens": lengths[1],
    }
    for name, side in (("accuracy_where_chosen_is_longer", longer), ("accuracy_where_chosen_is_not_longer", ~longer)):
        if side.any():
            found[name] = right[side].mean()
    return {name: float(value) for name, value in found.items()}

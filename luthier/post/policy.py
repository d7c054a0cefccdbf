"""Group-relative policy optimisation. In: rows sampled from a model, and their rewards. Out: a loss, and measures of it. Next: stages.

What a row needs stands in its `extras`: `advantages` and `weights` (B,), `figures` (B, F), and for each token `sampled`, the engine's
log-probability, perhaps `old`, the trainer's before the first update on the rollout, and `reference`, the frozen model's, each (B, T).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from luthier.config.post import GrpoSection
from luthier.pack.loader import IGNORE_INDEX, Batch
from luthier.post.logprobs import Logits, token_logprobs
from luthier.train.objective import Rows

FIGURES = ("reward", "equal_groups", "length", "ended", "faults")
"""Columns of `figures`: means over a rollout's samples. Faults are of graders and rewards; equal groups have one reward for all samples.
The further parts of the reward, where it has some, stand behind."""
LARGEST_LOG_RATIO = 20.0


def group_advantages(rewards: np.ndarray, by_std: bool) -> np.ndarray:
    """How much better each sample is than its group's mean, in standard deviations if `by_std`; zero where all rewards are equal.

    Shapes: (P, G) -> (P, G)
    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2; without the deviation, Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
    """
    centred = rewards - rewards.mean(1, keepdims=True)
    centred[np.ptp(rewards, axis=1) == 0] = 0.0  # and not what rounding leaves
    return centred / (rewards.std(1, ddof=1, keepdims=True) + 1e-4) if by_std else centred


def row_weights(lengths: np.ndarray, normalise: str, longest: int) -> np.ndarray:
    """The weight of each of a row's tokens in the loss of the whole step, so that shares of micro-batches and ranks add up exactly.

    `token`: all tokens weigh the same (DAPO). `sequence`: all answers do (GRPO). `constant`: a token weighs one part in `longest` of an
    answer, however long its own is (Dr. GRPO).
    Shapes: (B,) -> (B,)
    Source: arXiv:2503.14476, equation 8; arXiv:2402.03300, equation 3; arXiv:2503.20783, section 3.
    """
    rows = max(1, len(lengths))
    if normalise == "sequence":
        return 1.0 / (rows * np.maximum(lengths, 1))
    total = lengths.sum() if normalise == "token" else rows * longest
    return np.full(len(lengths), 1.0 / max(1, total))


@dataclass(frozen=True)
class TokenLosses:
    """Of each token: its loss, whether the clip took its gradient, its divergence from the reference, whether its ratio was impossible.

    Shapes: each (B, T)
    """

    losses: Tensor
    clipped: Tensor
    kl: Tensor
    odd: Tensor


def token_losses(logprobs: Tensor, extras: dict[str, Tensor], settings: GrpoSection) -> TokenLosses:
    """The clipped surrogate, corrected for what the engine sampled otherwise than the trainer computes, and the pull to the reference.

    With r = exp(new - old), A the advantage: -min(r A, clip(r, 1 - low, 1 + high) A) min(exp(old - sampled), cap) + c k3, where
    k3 = exp(d) - d - 1 and d = reference - new. `old` is the model itself where a rollout is used once. A token whose ratio is no number
    or infinite has no part in the surrogate, and one that is beyond exp(20) is cut there; both count as odd.

    Shapes: logprobs (B, T)
    Source: arXiv:2402.03300, equations 3 and 4; two clips, arXiv:2503.14476, section 3.1; truncated importance sampling, Yao et al. 2025,
    "Your efficient RL framework secretly brings you off-policy RL training".
    """
    now = logprobs.detach()
    old, sampled, reference = extras.get("old", now), extras.get("sampled", now), extras.get("reference")
    possible = torch.isfinite(now - old) & torch.isfinite(old - sampled)
    log_ratio = torch.where(possible, logprobs - old, 0.0)
    odd = ~possible | (log_ratio.detach() > LARGEST_LOG_RATIO)
    ratio = log_ratio.clamp_max(LARGEST_LOG_RATIO).exp()
    high = settings.clip_eps if settings.clip_eps_high is None else settings.clip_eps_high
    advantages = extras["advantages"][:, None]  # (B, 1)
    free, held = ratio * advantages, ratio.clamp(1 - settings.clip_eps, 1 + high) * advantages
    losses = -torch.minimum(free, held)
    if settings.importance_cap:
        drift = torch.where(possible, old - sampled, 0.0).clamp_max(math.log(settings.importance_cap))
        losses = losses * drift.exp()
    losses = torch.where(possible, losses, 0.0)
    kl = torch.zeros_like(now)
    if reference is not None:
        apart = torch.where(torch.isfinite(reference), reference - logprobs, 0.0).clamp_max(LARGEST_LOG_RATIO)
        kl = apart.exp() - apart - 1
        losses = losses + settings.kl_coef * kl
    return TokenLosses(losses, held.detach() < free.detach(), kl.detach(), odd)


class PolicyObjective:
    """The loss of sampled rows. Weights are those of the whole step, so micro-batches add up whatever they hold."""

    def __init__(
        self,
        settings: GrpoSection,
        warn: Callable[[str], None] | None = None,
        softcap: float | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        """`warn` is told, once, of ratios that are no numbers; `softcap` is the model's; `parts` are the names of further parts of the
        reward, which stand in `figures` behind the others.
        """
        self.measures = (*FIGURES, *parts, "clip_share", "kl", "entropy", "odd_ratios")
        self._settings, self._warn, self._how = settings, warn, Logits(softcap, settings.temperature)
        self._sums: list[float] = [0.0] * len(self.measures)

    def count(self, batch: Batch) -> int:
        """The sampled tokens of a batch."""
        return batch.n_loss_tokens

    def begin(self) -> None:
        """Forget the figures of the step before."""
        self._sums = [0.0] * len(self.measures)

    def sums(self) -> list[float]:
        """This rank's share of each measure: of means over samples, of means over tokens, and of the number of odd ratios."""
        odd = self._sums[-1]
        if odd and self._warn is not None:
            self._warn(f"{odd:.0f} tokens with a ratio that is infinite or no number; they are left out, training goes on")
            self._warn = None
        return list(self._sums)

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return the micro-batch's share of the step's loss, of which `n_targets` tokens are part."""
        extras, counted = dict(rows.extras), rows.targets != IGNORE_INDEX  # (B, T)
        hidden = forward(rows.inputs, doc_ids=rows.doc_ids)  # (B, T, D)
        logprobs, entropies = token_logprobs(hidden, head_weight, rows.targets, self._how)
        found = token_losses(logprobs, extras, self._settings)
        shares = [(values * counted).sum().item() / max(1, n_targets) for values in (found.clipped, found.kl, entropies)]
        new = [*extras["figures"].sum(0).tolist(), *shares, float((found.odd & counted).sum())]
        self._sums = [before + more for before, more in zip(self._sums, new, strict=True)]
        return (torch.where(counted, found.losses, 0.0) * extras["weights"][:, None]).sum()

"""A Bradley-Terry reward model. In: rows of pairs, or any conversations. Out: a loss, or a number for each answer. Next: stages.

The scalar head is the row of the output projection that belongs to one token which no answer contains (the end of a text), applied to
the state from which the answer's last token is predicted. So a reward model is a checkpoint like any other.
Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5; centring, Eisenstein et al. 2023, arXiv:2312.09244, appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.model.decoder import Decoder
from luthier.pack.loader import IGNORE_INDEX, gather, spread_rows
from luthier.pack.preferences import PreferenceRows
from luthier.post.pairs import PairMeasures
from luthier.train.device import within_memory
from luthier.train.objective import Rows, micro_batches

ROWS_AT_ONCE = 16


def reward_losses(rewards: Tensor, centre: float = 0.0) -> Tensor:
    """-log s(r_chosen - r_rejected) + centre (r_chosen + r_rejected)^2 for each pair.

    Shapes: (P, 2) -> (P,)
    """
    return -F.logsigmoid(rewards[:, 0] - rewards[:, 1]) + centre * rewards.sum(1).square()


def pair_rewards(hidden: Tensor, head: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """The numbers of the pairs in some rows, ascending, and the rewards of both sides.

    Shapes: hidden (B, T, D), head (D,) -> (P,), (P, 2)
    """
    assert rows.doc_ids is not None, "rows of pairs have document numbers"
    places = (rows.targets != IGNORE_INDEX).flatten().nonzero().squeeze(1)  # of all answers' tokens, ascending
    documents = rows.doc_ids.flatten()[places]
    last = torch.cat([documents[1:] != documents[:-1], documents.new_ones(1, dtype=torch.bool)])  # an answer lies in one piece
    order = documents[last].argsort()
    rewards = hidden.flatten(0, 1)[places[last][order]].float() @ head.float()  # (2P,)
    return documents[last][order][::2] // 2, rewards.view(-1, 2)


class RewardObjective(PairMeasures):
    """Mean Bradley-Terry loss over a step's pairs."""

    measures = ("margin", "accuracy", "chosen_reward", "rejected_reward")

    def __init__(self, token: int, centre: float) -> None:
        """`token` is the one whose row of the head gives the reward."""
        super().__init__()
        self._token, self._centre = token, centre

    def __call__(self, forward: Callable[..., Tensor], head_weight: Tensor, rows: Rows, n_targets: int) -> Tensor:
        """Return the micro-batch's share of the mean loss over `n_targets` pairs."""
        hidden = forward(rows.inputs, doc_ids=rows.doc_ids)  # (B, T, D)
        _, rewards = pair_rewards(hidden, head_weight[self._token], rows)
        margins = (rewards[:, 0] - rewards[:, 1]).detach()
        shown = (margins, margins > 0, *rewards.detach().unbind(1))
        self.note(shown, n_targets)
        return reward_losses(rewards, self._centre).sum() / max(1, n_targets)


@torch.inference_mode()
def held_out_rewards(model: Decoder, rows: PreferenceRows, token: int, device: str, n_rows: int) -> dict[str, float]:
    """Loss, margin and accuracy on `n_rows` rows from all over."""
    some = spread_rows(rows.n_rows, n_rows)

    def attempt(at_once: int) -> Tensor:
        found: list[Tensor] = []
        for start in range(0, len(some), at_once):
            (part,) = micro_batches(gather(rows, some[start : start + at_once]), at_once, device)
            hidden = model(part.inputs, doc_ids=part.doc_ids)  # (B, T, D)
            found.append(pair_rewards(hidden, model.head_weight[token], part)[1])
        return torch.cat(found)

    rewards, _ = within_memory(attempt, ROWS_AT_ONCE, device)
    margins = rewards[:, 0] - rewards[:, 1]
    means = {"loss": reward_losses(rewards), "accuracy": (margins > 0).float(), "margin": margins}
    return {name: float(values.mean()) for name, values in means.items()}


@torch.inference_mode()
def rewards_of(model: Decoder, conversations: Sequence[Sequence[int]], token: int, device: str) -> list[float]:
    """The reward of the last answer in each conversation, given as ids that end with the answer's last token (the end of its turn).

    Raises: ValueError for a conversation of less than two tokens
    """
    if any(len(ids) < 2 for ids in conversations):
        raise ValueError("a conversation with an answer has two tokens at least")

    def attempt(at_once: int) -> list[float]:
        found: list[float] = []
        for start in range(0, len(conversations), at_once):
            some = conversations[start : start + at_once]
            inputs = torch.zeros(len(some), max(map(len, some)) - 1, dtype=torch.int64)  # (B, T)
            for row, ids in enumerate(some):
                inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])  # what stands behind an answer is not seen from it
            hidden = model(inputs.to(device))  # (B, T, D)
            last = torch.tensor([len(ids) - 2 for ids in some], device=device)
            states = hidden[torch.arange(len(some), device=device), last]  # (B, D)
            found += (states.float() @ model.head_weight[token].float()).tolist()
        return found

    return within_memory(attempt, ROWS_AT_ONCE, device)[0]

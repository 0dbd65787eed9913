"""Groups: the attempts at one prompt with their rewards, as they wait for an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_select.rollouts.policy import Attempts
from lightning_select.types import Bool, Float

__all__ = ["Group", "as_matrix", "join", "trimmed"]

_LEFT = ("prompt_tokens", "prompt_mask")
"""Fields that are padded on the left."""


@dataclass(frozen=True)
class Group:
    """The attempts at one prompt.

    Attributes:
        prompt: The prompt.
        attempts: Completions, on the host.
        rewards: What the policy is trained on; NaN where an attempt does not count.
        metric: What the filter looked at; NaN where an attempt does not count.
        trains: Which attempts are trained on.
        born: Updates that the policy had had when it made them.
        place: Round, and row of the round over all ranks: an order that does not depend on the number of ranks.
    """

    prompt: str
    attempts: Attempts
    rewards: Float[Tensor, "attempts"]
    metric: Float[Tensor, "attempts"]
    trains: Bool[Tensor, "attempts"]
    born: int
    place: tuple[int, int]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        fields = {"prompt": self.prompt, "born": self.born, "place": list(self.place)}
        tensors = {"rewards": self.rewards, "metric": self.metric, "trains": self.trains}
        return {**fields, **tensors, "texts": list(self.attempts.texts), "attempts": self.attempts.tensors()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Group:
        """What `state_dict` gave."""
        attempts = Attempts(**state["attempts"], texts=tuple(state["texts"]))
        tensors = {name: state[name] for name in ("rewards", "metric", "trains")}
        first, second = state["place"]
        return cls(state["prompt"], attempts, born=state["born"], place=(first, second), **tensors)


def join(parts: Sequence[Attempts]) -> Attempts:
    """Attempts of several calls as one, as wide as the widest."""
    tensors = {}
    for name, first in parts[0].tensors().items():
        values = [part.tensors()[name] for part in parts]
        width = max((value.shape[1] for value in values if value.dim() > 1), default=0)
        tensors[name] = torch.cat(
            [_widened(value, width, name in _LEFT) if first.dim() > 1 else value for value in values]
        )
    return Attempts(**tensors, texts=tuple(text for part in parts for text in part.texts))


def trimmed(attempts: Attempts) -> Attempts:
    """The same attempts, no wider than their longest prompt and completion."""
    tensors = attempts.tensors()
    prompt = max(1, int(attempts.prompt_mask.sum(dim=1).max()))
    length = max(1, int(attempts.mask.sum(dim=1).max()))
    for name, value in tensors.items():
        if value.dim() > 1:
            tensors[name] = value[:, value.shape[1] - prompt :] if name in _LEFT else value[:, :length]
    return Attempts(**tensors, texts=attempts.texts)


def as_matrix(groups: Sequence[Float[Tensor, "attempts"]]) -> Float[Tensor, "groups most"]:
    """One line per group, filled up with NaN to the size of the largest."""
    return torch.nn.utils.rnn.pad_sequence(list(groups), batch_first=True, padding_value=float("nan"))


def _widened(value: Tensor, width: int, left: bool) -> Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (missing, 0) if left else (0, missing))

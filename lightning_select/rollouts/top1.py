"""Top one (best of n): of every group the attempt with the highest reward, and nothing of groups that do not vary.

The best of several attempts is a better answer than the policy gives on its own; learning from it, one goes up without
pushing anything down.

Know before use: the attempt kept is to be imitated. Its advantage is that within its whole group, so compute advantages
before the others are dropped; an attempt left alone in its group has advantage zero.

References:
    Mukobi et al., "SuperHF: Supervised Iterative Learning from Human Feedback", SoLaR workshop at NeurIPS 2023,
    arXiv:2310.16763: fine-tune on the completion of each prompt that a reward model likes best.
    Dong et al., "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment", TMLR 2023,
    arXiv:2304.06767: the same for the best of ``K``.

Deviations:
    A group whose attempts all earn the same has no best one and is left out, where the papers take any; so is a group
    with one attempt that counts. Which loss is taken on what is kept is another matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_select.rollouts.group_statistics import as_groups, counted, group_scale
from lightning_select.rollouts.zero_variance import TOLERANCE, zero_variance
from lightning_select.samplers.checks import between
from lightning_select.types import Bool, Shaped

__all__ = ["Top1", "top1"]


def top1(rewards: Shaped[Tensor, "groups attempts"], tolerance: float = TOLERANCE) -> Bool[Tensor, "groups attempts"]:
    """Which attempts to keep: the best of every group that varies; of equally good ones the first.

    Example:
        >>> import torch
        >>> top1(torch.tensor([[0.0, 1.0, 1.0], [0.3, 0.3, 0.3]])).int().tolist()
        [[0, 1, 0], [0, 0, 0]]
    """
    values = torch.where(counted(rewards), as_groups(rewards), -torch.inf)
    slack = tolerance * group_scale(rewards)
    best = values >= (values.amax(dim=1) - slack).unsqueeze(1)
    first = best & (best.cumsum(dim=1) == 1)
    return first & zero_variance(rewards, tolerance).unsqueeze(1)


@dataclass(frozen=True)
class Top1:
    """Keep the first best attempt of every group whose attempts did not all earn the same.

    Args:
        tolerance: Rewards of a group that differ by at most this share of the largest are the same.

    Raises:
        ArgumentError: ``tolerance`` is not in [0, 1].
    """

    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        between("Top1", "tolerance", self.tolerance, 0.0, 1.0)

    def __call__(self, rewards: Shaped[Tensor, "groups attempts"]) -> Bool[Tensor, "groups attempts"]:
        """Which attempts train."""
        return top1(rewards, self.tolerance)

"""DAPO: the mean over all tokens of the update, with more room to raise a probability than to lower one.

Every token counts the same, so long attempts count more. The wider upper bound lets tokens that are seldom sampled
grow, which keeps the policy from settling too early.

Know before use: the denominator is a number of tokens, so a token counts more in an update of short attempts; see
`dr_grpo` for a constant. The rest of the method is elsewhere: `lightning_select.rollouts.zero_variance` leaves out
groups without variance, and there is no divergence from a reference.

References:
    Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, arXiv:2503.14476, equations 8
    (objective), 9 (ratio and advantage), 10 (clip-higher, 0.2 and 0.28) and 12 (mean over tokens):
    ``1 / sum_i |o_i| sum_i sum_t min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)``.

Deviations:
    The sign is that of a loss. The mean is over the tokens of all groups of the update, as trainers have it; read word
    for word, the equation takes it within each group. Overlong answers are a matter of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_select.rollouts.losses.clipped import check_clip, clipped_share, clipped_terms, row_sums
from lightning_select.rollouts.losses.totals import PolicyLoss, Totals
from lightning_select.types import Bool, Float

__all__ = ["DAPOLoss", "dapo"]


def dapo(
    log_probs: Float[Tensor, "rows length"],
    old_log_probs: Float[Tensor, "rows length"],
    advantages: Float[Tensor, "rows"],
    mask: Bool[Tensor, "rows length"],
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    totals: Totals | None = None,
) -> PolicyLoss:
    """``1/tokens sum_i sum_t -min(ratio A, clip(ratio) A)``; 0 where there is no token at all.

    Args:
        log_probs: Log-probabilities of the tokens now; what stands outside the mask may be anything.
        old_log_probs: Those when they were sampled.
        advantages: One an attempt.
        mask: Which tokens were sampled.
        clip_low: How far the ratio of both probabilities may go below 1.
        clip_high: How far it may go above 1.
        totals: Of the update that this is a part of; ``None``: this is all of it.

    Example:
        >>> import torch
        >>> now, mask = torch.zeros(2, 2), torch.tensor([[True, True], [True, False]])
        >>> dapo(now, now, torch.tensor([0.0, -3.0]), mask).loss
        tensor(1.)
    """
    whole = Totals.of(mask) if totals is None else totals
    terms, cut = clipped_terms(log_probs, old_log_probs, advantages, mask, clip_low, clip_high)
    return PolicyLoss(_reduce(terms, mask, whole), clipped_share(cut, whole))


def _reduce(terms: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    return totals.per_token(row_sums(terms, mask).sum())


@dataclass(frozen=True)
class DAPOLoss:
    """The mean over all tokens of the update.

    Args:
        clip_low: How far the ratio of the probabilities of a token, now and when it was sampled, may go below 1.
        clip_high: How far it may go above 1.

    Raises:
        ArgumentError: ``clip_low`` is not in [0, 1], or ``clip_high`` is negative.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28

    def __post_init__(self) -> None:
        check_clip("DAPOLoss", self.clip_low, self.clip_high)

    def __call__(
        self,
        log_probs: Float[Tensor, "rows length"],
        old_log_probs: Float[Tensor, "rows length"],
        advantages: Float[Tensor, "rows"],
        mask: Bool[Tensor, "rows length"],
        totals: Totals,
    ) -> PolicyLoss:
        """This part's share of the loss of an update."""
        return dapo(log_probs, old_log_probs, advantages, mask, self.clip_low, self.clip_high, totals)

    def reduce(
        self, terms: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Terms of tokens, averaged as those of the loss are."""
        return _reduce(terms, mask, totals)

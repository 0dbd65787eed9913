"""GRPO: the mean over attempts of the mean over each attempt's tokens.

Know before use: every attempt counts the same, so a token counts less in a long one. Wrong answers that are long are
punished less per token than short ones, and answers tend to grow: see `dr_grpo` and `dapo`.

References:
    Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
    arXiv:2402.03300, equation 3: ``1/G sum_i 1/|o_i| sum_t min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)``.

Deviations:
    The sign is that of a loss. The mean is over all attempts of the update, which is the paper's mean over questions
    of means over groups where groups are equally large. The divergence of equation 3 is `lightning_select.rollouts.kl`,
    reduced by `GRPOLoss.reduce` and added with a factor by whoever trains. Bounds may differ: ``clip_low`` and
    ``clip_high``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_select.rollouts.losses.clipped import check_clip, clipped_share, clipped_terms, row_sums
from lightning_select.rollouts.losses.totals import PolicyLoss, Totals
from lightning_select.types import Bool, Float

__all__ = ["GRPOLoss", "grpo"]


def grpo(
    log_probs: Float[Tensor, "rows length"],
    old_log_probs: Float[Tensor, "rows length"],
    advantages: Float[Tensor, "rows"],
    mask: Bool[Tensor, "rows length"],
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    totals: Totals | None = None,
) -> PolicyLoss:
    """``1/attempts sum_i 1/|o_i| sum_t -min(ratio A, clip(ratio) A)``; an attempt without tokens adds 0.

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
        >>> grpo(now, now, torch.tensor([1.0, -3.0]), mask).loss
        tensor(1.)
    """
    whole = Totals.of(mask) if totals is None else totals
    terms, cut = clipped_terms(log_probs, old_log_probs, advantages, mask, clip_low, clip_high)
    return PolicyLoss(_reduce(terms, mask, whole), clipped_share(cut, whole))


def _reduce(terms: Tensor, mask: Tensor, totals: Totals) -> Tensor:
    return totals.per_attempt((row_sums(terms, mask) / mask.sum(dim=1).clamp_min(1)).sum())


@dataclass(frozen=True)
class GRPOLoss:
    """The mean over attempts of the mean over each one's tokens.

    Args:
        clip_low: How far the ratio of the probabilities of a token, now and when it was sampled, may go below 1.
        clip_high: How far it may go above 1.

    Raises:
        ArgumentError: ``clip_low`` is not in [0, 1], or ``clip_high`` is negative.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        check_clip("GRPOLoss", self.clip_low, self.clip_high)

    def __call__(
        self,
        log_probs: Float[Tensor, "rows length"],
        old_log_probs: Float[Tensor, "rows length"],
        advantages: Float[Tensor, "rows"],
        mask: Bool[Tensor, "rows length"],
        totals: Totals,
    ) -> PolicyLoss:
        """This part's share of the loss of an update."""
        return grpo(log_probs, old_log_probs, advantages, mask, self.clip_low, self.clip_high, totals)

    def reduce(
        self, terms: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Terms of tokens, averaged as those of the loss are."""
        return _reduce(terms, mask, totals)

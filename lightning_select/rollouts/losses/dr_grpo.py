"""Dr. GRPO: the sum over each attempt's tokens, divided by a constant length.

Where GRPO divides by the length of each attempt, which favours long wrong answers and short right ones, every token
counts the same here, in every update.

Know before use: the paper does not scale advantages either (``scale="none"``), which is set where they are computed.

References:
    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", COLM 2025, arXiv:2503.20783, section 3.2
    and listing 1: a constant, such as the largest length that is generated, in place of the length.

Deviations:
    The sign is that of a loss, the mean is over all attempts of the update, and the bounds may differ: ``clip_low``
    and ``clip_high``. The paper's equation leaves the constant out; it stands here as in the listing, for a scale near
    that of the other losses.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.losses.clipped import check_clip, clipped_share, clipped_terms, row_sums
from lightning_select.rollouts.losses.totals import PolicyLoss, Totals
from lightning_select.samplers.checks import whole
from lightning_select.types import Bool, Float

__all__ = ["DrGRPOLoss", "dr_grpo"]


def dr_grpo(
    log_probs: Float[Tensor, "rows length"],
    old_log_probs: Float[Tensor, "rows length"],
    advantages: Float[Tensor, "rows"],
    mask: Bool[Tensor, "rows length"],
    max_tokens: int,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    totals: Totals | None = None,
) -> PolicyLoss:
    """``1/attempts sum_i 1/max_tokens sum_t -min(ratio A, clip(ratio) A)``.

    Args:
        log_probs: Log-probabilities of the tokens now; what stands outside the mask may be anything.
        old_log_probs: Those when they were sampled.
        advantages: One an attempt.
        mask: Which tokens were sampled.
        max_tokens: The constant that stands for the length of an attempt.
        clip_low: How far the ratio of both probabilities may go below 1.
        clip_high: How far it may go above 1.
        totals: Of the update that this is a part of; ``None``: this is all of it.

    Example:
        >>> import torch
        >>> now, mask = torch.zeros(2, 2), torch.tensor([[True, True], [True, False]])
        >>> dr_grpo(now, now, torch.tensor([1.0, -3.0]), mask, max_tokens=2).loss
        tensor(0.2500)
    """
    every = Totals.of(mask) if totals is None else totals
    terms, cut = clipped_terms(log_probs, old_log_probs, advantages, mask, clip_low, clip_high)
    return PolicyLoss(_reduce(terms, mask, every, max_tokens), clipped_share(cut, every))


def _reduce(terms: Tensor, mask: Tensor, totals: Totals, max_tokens: int) -> Tensor:
    return totals.per_attempt(row_sums(terms, mask).sum() / max_tokens)


@dataclass(frozen=True)
class DrGRPOLoss:
    """The mean over attempts of the sum over each one's tokens, divided by a constant.

    Args:
        max_tokens: That constant; ``None`` is for whoever trains to replace by the largest number of tokens that is
            sampled, as the loss cannot know it.
        clip_low: How far the ratio of the probabilities of a token, now and when it was sampled, may go below 1.
        clip_high: How far it may go above 1.

    Raises:
        ArgumentError: A value is out of range.
    """

    max_tokens: int | None = None
    clip_low: float = 0.2
    clip_high: float = 0.2

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            whole("DrGRPOLoss", "max_tokens", self.max_tokens, least=1)
        check_clip("DrGRPOLoss", self.clip_low, self.clip_high)

    def __call__(
        self,
        log_probs: Float[Tensor, "rows length"],
        old_log_probs: Float[Tensor, "rows length"],
        advantages: Float[Tensor, "rows"],
        mask: Bool[Tensor, "rows length"],
        totals: Totals,
    ) -> PolicyLoss:
        """This part's share of the loss of an update."""
        length = self._length()
        return dr_grpo(log_probs, old_log_probs, advantages, mask, length, self.clip_low, self.clip_high, totals)

    def reduce(
        self, terms: Float[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], totals: Totals
    ) -> Float[Tensor, ""]:
        """Terms of tokens, averaged as those of the loss are."""
        return _reduce(terms, mask, totals, self._length())

    def _length(self) -> int:
        if self.max_tokens is None:
            raise ArgumentError("DrGRPOLoss.max_tokens must be a whole number when the loss is computed, got None.")
        return self.max_tokens

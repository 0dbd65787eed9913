"""KL: how far the policy has gone from a reference, estimated token by token.

With ``d = log reference - log policy`` of a token that the policy sampled, ``exp(d) - d - 1`` has the divergence
KL(policy || reference) as its mean, is never negative, and varies less than ``-d``, the plain estimate.

Know before use: it is unbiased for tokens of the policy itself; for those of an older one it is not corrected here. The
gradient of the estimate is ``1 - exp(d)``, which is not an unbiased estimate of the gradient of the divergence.

References:
    Schulman, "Approximating KL Divergence", 2020, joschu.net/blog/kl-approx.html: the estimator k3.
    Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024,
    arXiv:2402.03300, equation 4.

Deviations:
    Beyond ``d = 20`` (the reference finds a token 5e8 times likelier than the policy) the exponential goes on as its
    tangent: value and gradient stay finite where float32 would overflow at 89, and still pull the policy back. A
    reference that finds a sampled token impossible is infinitely far away, and so says the estimate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.types import Bool, Float

__all__ = ["MOST", "kl"]

MOST = 20.0
"""Largest difference of log-probabilities whose exponential is taken."""


def kl(
    log_probs: Float[Tensor, "rows length"],
    reference_log_probs: Float[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
) -> Float[Tensor, "rows length"]:
    """The estimate for each token that was sampled, 0 elsewhere; a gradient for ``log_probs`` alone.

    What stands at the padding may be anything, also NaN. At least float32.

    Raises:
        ArgumentError: Shapes differ, or the mask is not boolean.

    Example:
        >>> kl(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.0]]), torch.tensor([[True, True]]))
        tensor([[0.0000, 0.7183]])
    """
    if not log_probs.shape == reference_log_probs.shape == mask.shape or mask.dtype != torch.bool:
        shapes = ", ".join(str(tuple(one.shape)) for one in (log_probs, reference_log_probs, mask))
        raise ArgumentError(
            "kl.log_probs, reference_log_probs and mask must have the same shape, and the mask must be boolean, "
            f"got {shapes} and {mask.dtype}."
        )
    dtype = torch.promote_types(log_probs.dtype, torch.float32)
    apart = reference_log_probs.detach().to(dtype) - log_probs.to(dtype)
    apart = torch.where(mask, apart, 0.0)
    near = apart.clamp_max(MOST)
    beyond = (apart - MOST).clamp_min(0.0)
    # expm1 keeps the digits where both policies nearly agree.
    return (torch.expm1(near) * (1.0 + beyond) - near).clamp_min(0.0)

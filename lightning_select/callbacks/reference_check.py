"""Does a reference know the data better than nobody does? Asked once, on the first batch of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_select.compat import rank_zero_warn
from lightning_select.errors import ReferenceModelError
from lightning_select.scores.solve_rate import target_probability
from lightning_select.signals.base import Signals
from lightning_select.signals.reference import Reference
from lightning_select.types import Batch, Float

__all__ = ["chance_level", "check_reference", "known_losses"]

_MARGIN = 0.05
"""Share of the loss by which a module must be better, where there are no classes to compare with chance."""


def check_reference(
    owner: str,
    reference: Reference,
    batch: Batch,
    ours: Float[Tensor, "rows"],
    theirs: Float[Tensor, "rows"],
    *,
    whole: bool,
) -> None:
    """Nothing, where the reference is of use.

    Two untrained models differ by luck, so that a loss below that of the model in training proves little. A module
    must also predict the classes better than their frequencies do.

    Args:
        owner: The score, for the message.
        reference: What is asked.
        batch: The candidate batch.
        ours: Row losses of the model in training, before its first step.
        theirs: Row losses of the reference.
        whole: Was the batch scored as a whole? The predictions of its pieces do not fit into memory together.

    Raises:
        ReferenceModelError: The reference was given and is of no use; one that was trained here gets a warning.
    """
    evidence = reference.evidence(batch) if whole else None
    classes = evidence is not None and evidence.logits is not None and evidence.targets is not None
    if evidence is not None and classes:
        likely = target_probability(
            evidence.need("logits", owner), evidence.need("targets", owner), evidence.valid, link=evidence.link
        )
        entropy, chance = float(-likely.log().nanmean()), chance_level(evidence)
        if not entropy < chance:
            raise ReferenceModelError(
                f"{owner}.reference must predict the classes better than their frequencies do, got a cross entropy of "
                f"{entropy:.4g} on the first batch, where the frequencies have {chance:.4g}. Is it trained, on these "
                "classes in this order?"
            )
    mean, own = float(theirs.nanmean()), float(ours.nanmean())
    margin = 0.0 if reference.needs_ids or classes else _MARGIN * abs(own)
    if mean < own - margin:
        return
    message = (
        f"{owner}.reference must know the data better than the untrained model, got a mean loss of {mean:.4g} on the "
        f"first batch, where the model has {own:.4g}. Train the reference longer."
    )
    if not reference.trained_here:
        raise ReferenceModelError(message)
    rank_zero_warn(message)  # the data may be hard; that it was trained is certain


def chance_level(signals: Signals) -> float:
    """Cross entropy in nats of the best prediction that is the same for every row (of each label, for a sigmoid).

    The entropy of the frequencies in a batch is too low for small batches; Miller and Madow's correction is added, as
    if every class had been seen. It is at most that of a uniform prediction.
    """
    logits, targets = signals.need("logits", "chance_level"), signals.need("targets", "chance_level")
    if signals.link == "sigmoid":
        share = targets.reshape(logits.shape).float().mean(dim=0)
        entropy = (torch.special.entr(share) + torch.special.entr(1.0 - share)).mean()
        return min(float(entropy) + 0.5 / logits.shape[0], math.log(2))
    classes = logits.shape[-1]
    valid = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    valid = valid if signals.valid is None else signals.valid
    if targets.dim() == logits.dim():
        counts = targets[valid].float().sum(dim=0)
    else:
        known = valid & (targets >= 0) & (targets < classes)
        counts = torch.bincount(targets[known].long(), minlength=classes).float()
    entropy = torch.special.entr(counts / counts.sum()).sum()
    return min(float(entropy + (classes - 1) / (2 * counts.sum())), math.log(classes))


def known_losses(losses: Float[Tensor, "steps rows"]) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Whether a table knew every row it was asked for."""
    unknown = losses.isnan().sum(dim=1)
    return {"reference_known": (unknown > 0, unknown)}

"""Put together what one step said about the rows of its batch, those that were left out included."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lightning_select.reports.margins import Margins
from lightning_select.reports.row_record import StepRows
from lightning_select.types import Float, Int, Tensor

__all__ = ["Said", "step_rows"]


@dataclass(frozen=True)
class Said:
    """What one forward pass said about some rows of the batch.

    Attributes:
        places: Their positions in the batch as it was loaded; ``None``: all of its rows, in order.
        loss: Their losses, if known.
        margins: Their margins, if known.
        scores: Their scores, if they were scored.
    """

    places: Int[Tensor, "some"] | None = None
    loss: Float[Tensor, "some"] | None = None
    margins: Margins | None = field(default=None, repr=False)
    scores: Float[Tensor, "some"] | None = None


def step_rows(
    ids: Int[Tensor, "rows"],
    taken: Int[Tensor, "trained"] | None,
    weights: Float[Tensor, "trained"] | None,
    said: list[Said],
    group: Tensor | None = None,
) -> StepRows:
    """One line per row of the batch as it was loaded.

    Args:
        ids: Their rows of the dataset.
        taken: Positions of those that were trained on; may repeat one; ``None``: all.
        weights: How strongly each of those counted; ``None``: all alike.
        said: What forward passes said; later ones replace what earlier ones said of the same row.
        group: Group of each row, if the batch tells.
    """
    rows = ids.shape[0]
    chosen = weight = torch.ones(rows, device=ids.device)
    if taken is None:
        weight = weight if weights is None else weights.float()
    else:
        ones = torch.ones(taken.shape[0], device=ids.device)
        chosen = torch.zeros_like(weight).index_add_(0, taken, ones)
        weight = chosen if weights is None else torch.zeros_like(weight).index_add_(0, taken, weights.float())
    nothing = torch.full((rows,), torch.nan, device=ids.device)
    known = torch.stack([chosen, weight, nothing if group is None else group.float()], dim=1)
    told = nothing[:, None].expand(rows, len(StepRows.NAMES) - 3)
    for one in said:
        values = _values(one, rows if one.places is None else one.places.shape[0], nothing)
        before = told if one.places is None else told.index_select(0, one.places)
        values = torch.where(values.isfinite(), values, before)
        told = values if one.places is None else told.index_copy(0, one.places, values)
    return StepRows(ids, torch.cat([known, told], dim=1))


def _values(said: Said, rows: int, nothing: Tensor) -> Tensor:
    """Loss, score and margins as columns; NaN where they are not known or belong to other rows."""
    nothing = nothing[:1].expand(rows)
    fitting = (one is not None and one.shape[0] == rows for one in (said.loss, said.scores))
    pair = [
        one.float() if fits and one is not None else nothing
        for one, fits in zip((said.loss, said.scores), fitting, strict=True)
    ]
    margins = None if said.margins is None or said.margins.values.shape[0] != rows else said.margins.values
    wide = nothing[:, None].expand(rows, len(Margins.NAMES)) if margins is None else margins
    return torch.cat([torch.stack(pair, dim=1), wide], dim=1)

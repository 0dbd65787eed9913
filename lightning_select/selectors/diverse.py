"""Diverse (UDS): useful rows whose predictions differ from those of the rows that were chosen of late.

The score of a row is its utility plus ``alpha_norm`` times its mean distance to a memory of sketches: its logits, a
matrix of tokens by classes, reduced to a few numbers that keep distances, without the logits where the output head is
known.

Know before use: by default rows are compared with the past, not with each other, so two copies in one batch may both
be chosen; ``greedy`` prevents that. ``alpha_norm`` is in units of true distances between logits, and results hinge on
it: a utility that differs by more than ``alpha_norm`` times the distances decides alone.

References:
    Zou, Mao, Qu, Wang and Ji, "Utility-Diversity Aware Online Batch Selection for LLM Supervised Fine-tuning", 2025,
    arXiv:2510.16882: the inter-sample score of UDS. Official code: github.com/gfyddha/UDS.

Deviations:
    The official distances are longer than the true ones by ``sqrt(tokens * classes) / 2`` (see `sketch`), so its alpha
    means something else for each model and length. Its default of 2.5e-3 is 11 in true distances for 512 tokens and
    152064 classes, and its MMLU script's 1.5e-3 is the 6.6 that is the default here. Only valid tokens count; the
    official code takes prompt and padding as well. ``greedy`` and ``shared`` are additions, off by default. The paper
    mentions the mean distance within the batch as an option; of copies that mean hardly takes any notice, so ``greedy``
    goes by the nearest: rows are taken one at a time, by ``u + alpha_norm * min(v, w)`` with v the mean distance to the
    memory and w the distance to the nearest row that was taken in this batch.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.protocols import SelectionContext
from lightning_select.schedule import Anneal
from lightning_select.selectors.memory import SketchMemory
from lightning_select.selectors.sketch import sketch
from lightning_select.types import Bool, Float, Int, Selection

__all__ = ["Diverse", "diverse", "mean_distance"]

_MOST = 1e38
"""Totals count at most so much, which leaves room below them for rows without a sketch or without a score."""

_SAME = 2.0**-43
"""Squared distances below this share of the squared lengths are rounding, and that of float32 is larger."""

_AT_ONCE = 256
"""How many sketches are held in float64 at a time, so that they stay in the cache of a processor."""


def mean_distance(
    sketches: Float[Tensor, "rows dims"], memory: Float[Tensor, "capacity dims"], filled: Int[Tensor, ""]
) -> Float[Tensor, "rows"]:
    """Mean distance to the first ``filled`` sketches in memory, 0 if there is none; NaN for a sketch with a NaN."""
    there = torch.arange(memory.shape[0], device=memory.device) < filled
    return torch.where(there, _distances(sketches, memory), 0.0).sum(dim=1).div(filled.clamp(min=1)).float()


def diverse(
    utility: Float[Tensor, "rows"],
    novelty: Float[Tensor, "rows"],
    sketches: Float[Tensor, "rows dims"],
    count: int,
    alpha_norm: float,
    *,
    greedy: bool = False,
    empty: Bool[Tensor, ""] | bool = False,
) -> Int[Tensor, "count"]:
    """Rows in the order of choice: the largest ``utility + alpha_norm * novelty`` first.

    With ``greedy`` the novelty of a row is at most its distance to the nearest row that is taken already, and just that
    if the memory is ``empty``. A copy of a taken row then has none: it is taken before another row only if its utility
    is larger by more than ``alpha_norm`` times the novelty of the other.

    Equal totals: the earlier row. Rows without a finite sketch come after all that have one, and rows without a finite
    utility at the very end.

    Example:
        >>> utility, sketches = torch.tensor([3.0, 3.0, 2.0]), torch.tensor([[0.0], [0.0], [5.0]])
        >>> diverse(utility, torch.zeros(3), sketches, 2, 1.0).tolist()
        [0, 1]
        >>> diverse(utility, torch.zeros(3), sketches, 2, 1.0, greedy=True, empty=True).tolist()
        [0, 2]
    """
    utility, usable = utility.float(), _usable(utility, sketches)
    last = torch.where(utility.isfinite(), -2 * _MOST, -3 * _MOST)
    totals = torch.where(usable, (utility + alpha_norm * novelty).clamp(-_MOST, _MOST), last)
    if not greedy:
        return totals.argsort(descending=True, stable=True)[:count]
    between = _distances(sketches, sketches).float()
    nearest = torch.where(torch.as_tensor(empty, device=novelty.device), torch.inf, novelty)
    taken, chosen = torch.zeros_like(usable), []
    for _ in range(count):
        pick = torch.where(taken, -torch.inf, totals).argmax(dim=0, keepdim=True)
        chosen.append(pick)
        taken.index_fill_(0, pick, True)
        # A row without a sketch leaves no number here, but then all that have one are taken.
        nearest = torch.minimum(nearest, between.index_select(0, pick)[0])
        totals = torch.where(usable, (utility + alpha_norm * nearest).clamp(-_MOST, _MOST), last)
    return torch.cat(chosen)


def _usable(utility: Float[Tensor, "rows"], sketches: Float[Tensor, "rows dims"]) -> Bool[Tensor, "rows"]:
    return utility.isfinite() & sketches.isfinite().all(dim=1)


def _distances(left: Float[Tensor, "rows dims"], right: Float[Tensor, "others dims"]) -> Float[Tensor, "rows others"]:
    """Distances by products, many times as fast as by differences; float64 because products lose half the digits."""
    left = left.double()
    length, parts = left.square().sum(dim=1, keepdim=True), []
    with torch.autocast(left.device.type, enabled=False):
        for part in torch.split(right, _AT_ONCE):
            part = part.double()
            lengths = length + part.square().sum(dim=1)
            squares = torch.addmm(lengths, left, part.mT, alpha=-2)
            parts.append(torch.where(squares > _SAME * lengths, squares, 0.0 * squares).sqrt().clamp(max=_MOST))
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Diverse:
    """Keep the rows of largest ``utility + alpha_norm * mean distance`` to the memory; then remember them.

    The memory is first in, first out; of more rows than it holds, it takes the best. Equal totals: the earlier row.
    Rows without a finite score, without finite logits or without a valid token come last and are not remembered.

    Logs ``memory_fill``, the share of the memory that is in use, and ``novelty_kept``, the mean over the kept rows of
    their mean distance to the memory.

    Args:
        alpha_norm: Weight of the distance against the score, in units of the score per unit of distance between logits.
            May be an `Anneal`.
        capacity: Number of sketches in memory.
        vocabulary_dims: Numbers to which the classes of a token are reduced; even.
        token_dims: Numbers to which the tokens of a row are reduced; even.
        max_tokens: Number of valid tokens up to which the projection is orthonormal. Longer rows are no error: their
            distances are kept on average, a little less closely.
        seed: Seed of the projection.
        greedy: Also compare the rows of a batch with each other, so that no copy of a chosen row is chosen while
            another row of comparable utility is left.
        shared: All ranks remember what all of them chose (the best of every rank, then the second-best, and so on), and
            wait for each other in each step: every rank must then select in the same steps. Otherwise each rank has a
            memory of its own. The first step settles how many rows a rank may have; of a larger batch that comes later
            only so many are remembered.

    Raises:
        ArgumentError: A value is out of range, or the memory of a checkpoint was made with other values or classes.
        MissingSignalError: The step shows no logits.
    """

    alpha_norm: float | Anneal = 6.6
    capacity: int = 1024
    vocabulary_dims: int = 128
    token_dims: int = 8
    max_tokens: int = 4096
    seed: int = 0
    greedy: bool = False
    shared: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"head"})
    with_replacement: ClassVar[bool] = False

    def __post_init__(self) -> None:
        alpha = self.alpha_norm
        for value in (alpha.begin, alpha.end) if isinstance(alpha, Anneal) else (alpha,):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= sys.float_info.max:
                raise ArgumentError(f"Diverse.alpha_norm must be a finite number, at least 0, got {value!r}.")
        for name, least in (("capacity", 1), ("vocabulary_dims", 2), ("token_dims", 2), ("max_tokens", 1), ("seed", 0)):
            size, even = getattr(self, name), name.endswith("_dims")
            if isinstance(size, bool) or not isinstance(size, int) or size < least or (even and size % 2):
                kind = "an even" if even else "a whole"
                raise ArgumentError(f"Diverse.{name} must be {kind} number, at least {least}, got {size!r}.")
        for name in ("greedy", "shared"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentError(f"Diverse.{name} must be true or false, got {getattr(self, name)!r}.")

    def __call__(self, scores: Float[Tensor, "rows"], count: int, context: SelectionContext) -> Selection:
        """Choose ``count`` rows. Called by hand, an `Anneal` counts as its begin."""
        alpha = self.alpha_norm.begin if isinstance(self.alpha_norm, Anneal) else self.alpha_norm
        head, valid = context.signals.output_head("Diverse"), context.signals.valid
        projection = {name: getattr(self, name) for name in ("vocabulary_dims", "token_dims", "max_tokens", "seed")}
        sketches = sketch(head, valid, **projection)
        memory = SketchMemory.restored(context.state, self.capacity, sketches, self._made_with(head.classes))
        fresh = mean_distance(sketches, memory.sketches, memory.filled)
        order = diverse(scores, fresh, sketches, count, alpha, greedy=self.greedy, empty=memory.filled == 0)
        known = _usable(scores, sketches).index_select(0, order)
        rows = torch.where(known.unsqueeze(1), sketches.index_select(0, order), torch.nan)
        memory = memory.remember_all(rows, len(sketches)) if self.shared else memory.remember(rows)
        kept = torch.where(known, fresh.index_select(0, order), 0.0).sum() / known.sum().clamp(min=1)
        metrics = {"memory_fill": memory.fill, "novelty_kept": kept}
        return Selection(order.sort().values, state=memory.state, metrics=metrics)

    def _made_with(self, classes: int) -> dict[str, int]:
        """On what the meaning of a sketch depends, and of a memory of them."""
        names = ("vocabulary_dims", "token_dims", "max_tokens", "shared")
        return {"classes": classes, "seed": self.seed % 2**63, **{name: int(getattr(self, name)) for name in names}}

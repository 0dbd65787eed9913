"""Which logits are meant where a step has several classification losses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from lightning_select.signals.equality import same_values
from lightning_select.signals.layout.probe import Run, StepShape
from lightning_select.signals.layout.rows import Layout
from lightning_select.signals.recording.linears import LINKED
from lightning_select.signals.recording.made import FUSED, Made
from lightning_select.signals.recording.records import Unreduced

__all__ = ["CLASSIFYING", "FIRST", "Seen", "WhichLogits", "class_losses", "common_input", "trained"]

CLASSIFYING = frozenset({"head", "hidden", "logits", "targets", "valid"})
"""Signals that come of a loss over classes."""

Seen: TypeAlias = "tuple[Tensor | None, Made | None]"
"""The logits of a loss, unless it makes them itself, and the linear layer that made them where it is known."""

_DIVERGENCE = "F.kl_div"
_LOSSES = LINKED.keys() | {FUSED}


def class_losses(layouts: Sequence[Layout | None], names: Sequence[str]) -> list[int]:
    """Places of the losses over classes that depend on rows; a divergence is one where there is no other."""
    found = [place for place, layout in enumerate(layouts) if layout is not None and names[place] in _LOSSES]
    return [place for place in found if names[place] != _DIVERGENCE] or found


def trained(unreduced: Sequence[Unreduced], shape: StepShape) -> Sequence[Unreduced]:
    """Without those that only make weights or metrics; all where none has a gradient or there are more than before."""
    if len(unreduced) != len(shape.unreduced) or not any(shape.unreduced):
        return unreduced
    return [loss for loss, counts in zip(unreduced, shape.unreduced, strict=True) if counts]


def common_input(run: Run, shape: StepShape) -> dict[str, Any]:
    """The input that several heads share, one vector for each row; nothing where it is not the same memory."""
    places = class_losses(shape.layouts, run.names)
    made = [run.capture.records[place].made for place in places]
    hidden = [one.hidden for one in made if one is not None and one.hidden is not None]
    layouts = [layout for layout in shape.layouts if layout is not None]
    if not hidden or len(hidden) < len(places) or any(layout.axis or layout.masked for layout in layouts):
        return {}
    first = hidden[0]
    shared = all((*_memory(one), one.stride()) == (*_memory(first), first.stride()) for one in hidden)
    return {"hidden": first} if shared and first.dim() == 2 and first.shape[0] == run.rows else {}


class WhichLogits:
    """Takes those of the head that was named, or those that all losses see; there is no guess.

    Args:
        named: Parameters of the output head by their ids, where one was named.
        refuse: Says that the named one cannot be had, and why.
        first: Take those of the first loss, whatever others there are.
    """

    def __init__(
        self, named: frozenset[int] | None = None, refuse: Callable[[str], None] | None = None, *, first: bool = False
    ) -> None:
        self._named, self._refuse, self._first = named, refuse, first
        self._alike: dict[tuple[str, ...], bool] = {}

    @property
    def is_named(self) -> bool:
        """Was a head named?"""
        return self._named is not None

    def wants_layers(self, needs: Collection[str], shape: StepShape | None = None) -> bool:
        """Must the layers behind the logits be known, for these signals of a step of this shape?"""
        several = shape is not None and not self._first and len(class_losses(shape.layouts, shape.names)) > 1
        return "hidden" in needs or (not CLASSIFYING.isdisjoint(needs) and (self.is_named or several))

    def check(self, found: Collection[str]) -> None:
        """Are there logits of the head that was named?

        Raises:
            ArgumentError: There are none.
        """
        if self.is_named and self._refuse is not None and "logits" not in found:
            self._refuse(_NOT_SEEN)

    def place(self, seen: Sequence[Seen], step: tuple[str, ...]) -> int | None:
        """The place of the logits that are meant, or ``None``; ``step``: what tells this step from others."""
        places = [place for place, (_, made) in enumerate(seen) if self._named is None or self._is_named(made)]
        if not places or self._first:
            return places[0] if places else None
        first, *others = (seen[place] for place in places)
        if not all(_one_place(first, other) for other in others):
            if step not in self._alike:  # looking at values means to wait for the device, so once
                self._alike[step] = all(_one_value(first, other) for other in others)
            if not self._alike[step]:
                return None
        return places[0]

    def _is_named(self, made: Made | None) -> bool:
        return made is not None and self._named is not None and bool(made.weights & self._named)


FIRST = WhichLogits(first=True)
"""Takes the logits of the first loss."""

_NOT_SEEN = (
    "its output must reach one classification loss that torch computes, with nothing between but views, a choice of "
    "tokens, casts and one factor for all logits"
)


def _one_place(one: Seen, other: Seen) -> bool:
    """Are they the same numbers in memory, in the same or another order, or the same layer of the same input?"""
    if one[0] is not None and other[0] is not None and _memory(one[0]) == _memory(other[0]):
        return True
    mine, theirs = one[1], other[1]
    if mine is None or theirs is None or mine.weights != theirs.weights:
        return False
    if mine.hidden is None or theirs.hidden is None:
        return False
    return _memory(mine.hidden) == _memory(theirs.hidden) and mine.hidden.stride() == theirs.hidden.stride()


def _memory(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _one_value(one: Seen, other: Seen) -> bool:
    """Do they agree, and not for want of training (heads that begin at zero)?"""
    mine, theirs = one[1], other[1]
    if mine is not None and theirs is not None and mine.weights != theirs.weights:
        return False
    if one[0] is None or other[0] is None:
        given = [made.hidden for made in (mine, theirs) if made is not None and made.hidden is not None]
        return len(given) == 2 and same_values(*given)
    return same_values(one[0], other[0]) and bool(one[0].numel() and (one[0] != one[0].flatten()[0]).any())

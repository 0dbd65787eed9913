"""Which linear layer made the logits of a loss, and what it was given for each of them.

A layer's output is known by what it is, not by its size, and followed to the loss: through what moves its numbers about
(views, another order of axes, a choice of tokens), through casts, and through one factor for all logits (a
temperature). What happens on the way is noted, and done to the layer's input once a loss asks for it. Logits that came
about in any other way, or were written to, have no layer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select.signals.recording.made import FUSED, Made, classes_of_log_softmax, layer_of, made_by_loss, owners
from lightning_select.signals.recording.masks import Cut
from lightning_select.signals.recording.moves import Masked, Move, OverClasses, moved, moved_single
from lightning_select.torch_compat import in_functorch, version_of

__all__ = ["FOLLOWED", "LAYERS", "LINKED", "LOG_SOFTMAX", "LinearLayers"]


def _named(*names: str) -> frozenset[Any]:
    """The functions and methods of torch that are called so."""
    return frozenset(getattr(owner, name) for owner in (torch, Tensor, F) for name in names if hasattr(owner, name))


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_MOVES = frozenset({Tensor.T.__get__, Tensor.mT.__get__}) | _named(  # type: ignore[attr-defined]
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "transpose", "permute"),
    *("movedim", "moveaxis", "swapaxes", "swapdims", "t", "select", "narrow", "index_select", "__getitem__"),
)
_COPIES = frozenset({_DATA}) | _named(
    *("contiguous", "clone", "detach", "to", "type", "type_as", "float", "double", "half", "bfloat16")
)
_PRODUCTS = _named("mul", "multiply", "__mul__", "__rmul__")
_FACTORS = _PRODUCTS | _named("div", "divide", "true_divide", "__truediv__")
_SCALINGS = frozenset({Tensor.mul_, Tensor.div_, Tensor.__imul__, Tensor.__itruediv__})
_SIGMOIDS = _named("sigmoid")
LOG_SOFTMAX = _named("log_softmax")
_RESIZES = frozenset({F.interpolate})
FOLLOWED = _MOVES | _COPIES | _FACTORS | _SCALINGS | _SIGMOIDS | LOG_SOFTMAX | _RESIZES
"""Functions after which it is still known which layer made the logits."""

LAYERS = {F.linear} | _named(*(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))
"""Functions that make logits; of a convolution only its weights are known, not what it was given for each place."""

_CLASSES_SECOND = frozenset({"F.cross_entropy", "F.nll_loss", "F.multi_margin_loss"})
LINKED: Mapping[str, frozenset[str]] = {
    "F.cross_entropy": frozenset({"", "log_softmax"}),  # the log-softmax of log-probabilities is what they are
    "F.nll_loss": frozenset({"log_softmax"}),
    "F.kl_div": frozenset({"log_softmax"}),
    "F.multi_margin_loss": frozenset({""}),
    "F.binary_cross_entropy": frozenset({"sigmoid"}),
    "F.binary_cross_entropy_with_logits": frozenset({""}),
}
"""What may have been made of the logits that each loss is given."""


@dataclass(eq=False)
class _Call:
    """One call of a layer; ``whole``: it is linear and not a convolution.

    ``written`` where its output was changed by a write that torch does not count.
    """

    given: Tensor
    weight: Tensor
    biased: bool
    weights: frozenset[int]
    version: int
    whole: bool = True
    written: bool = False


@dataclass(frozen=True, eq=False)
class _Logits:
    """A tensor that holds the output of a layer; ``uncounted``: writes to it go past that output's own count."""

    tensor: weakref.ref[Tensor]
    call: _Call
    version: int
    moves: tuple[Any, ...] = ()
    link: str = ""
    uncounted: bool = False


class LinearLayers:
    """What linear layers were given, for as long as there is something of their outputs."""

    def __init__(self) -> None:
        self._known: dict[int, _Logits] = {}

    def note(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> None:
        """Remember one call of a layer, of one of `LAYERS`."""
        given, weight, bias = layer_of(args, kwargs)
        plain = (
            type(given) in (Tensor, nn.Parameter)
            and type(weight) in (Tensor, nn.Parameter)
            and (weight.dim() == 2 or func is not F.linear)
        )
        if not plain or output.is_nested or output.is_inference() or given.is_inference() or in_functorch():
            return
        call = _Call(
            given.detach(),
            weight.detach(),
            bias is not None,
            owners(weight, bias),
            version_of(given),
            func is F.linear,
        )
        self._add(output, call)

    def follow(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], output: Any, cut: Cut | None
    ) -> None:
        """Note what a call of one of `FOLLOWED` made of the output of a layer; ``cut``: the mask that it was."""
        at = next((place for place, value in enumerate(args[:2]) if id(value) in self._known), None)
        if at is None or not isinstance(output, Tensor) or (at and func not in _PRODUCTS):
            return
        source: Tensor = args[at]
        logits = self._known[id(source)]
        if logits.tensor() is not source or version_of(source) != logits.version + (func in _SCALINGS):
            return
        if func in _RESIZES and logits.call.whole:
            return
        rest = args[1:] if at == 0 else args[:1]
        moves, link = logits.moves, logits.link
        if func in _FACTORS or func in _SCALINGS:
            if link or kwargs or len(rest) != 1 or not _is_one_factor(rest[0], output) or output.shape != source.shape:
                return
        elif func in _SIGMOIDS or func in LOG_SOFTMAX:
            if link:
                return
            link = "sigmoid" if func in _SIGMOIDS else "log_softmax"
            if func in LOG_SOFTMAX:
                dim = classes_of_log_softmax(source, rest, kwargs)
                if dim is None:
                    return
                moves = (*moves, OverClasses(dim))
        elif cut is not None:
            if output.shape != (cut.size, *source.shape[len(cut.shape) :]):
                return
            moves = (*moves, Masked(cut))
        elif func in _MOVES and logits.call.whole:
            moves = (*moves, Move.of(func, rest, kwargs))
        self._add(output, logits.call, moves, link, uncounted=logits.uncounted or func == _DATA)

    def written(self, target: Any) -> None:
        """Someone is about to write; torch does not count the writes to ``tensor.data`` as some to the tensor."""
        logits = self._known.get(id(target))
        if logits is not None and logits.uncounted:
            logits.call.written = True

    def of_loss(self, loss: str, arguments: Mapping[str, Any]) -> Made | None:
        """The layer that made the logits of ``loss``, by the arguments it was given."""
        if loss == FUSED:
            return made_by_loss(arguments)
        return self.behind(arguments["input"], loss) if loss in LINKED else None

    def behind(self, logits: Tensor, loss: str, axis: int | None = None) -> Made | None:
        """The layer that made the logits which ``loss`` was given; ``axis``: where it has their classes."""
        found = self._known.get(id(logits))
        if found is None or found.link not in LINKED[loss] or found.tensor() is not logits:
            return None
        call = found.call
        if call.written or version_of(logits) != found.version or version_of(call.given) != call.version:
            return None
        if logits.device != call.given.device or not logits.dim():
            return None
        if not call.whole:
            return Made(None, call.biased, call.weights)
        wanted = (1 if loss in _CLASSES_SECOND else -1) if axis is None else axis
        with torch.no_grad():
            if call.weight.shape[0] == 1 and loss.startswith("F.binary"):
                hidden, at = moved_single(call.given, found.moves), None
            else:
                hidden, at = moved(call.given, call.weight, found.moves) or (None, None)
        if hidden is None or (at is not None and at != min(wanted, logits.dim() - 1) % logits.dim()):
            return None
        return Made(hidden, call.biased, call.weights)

    def _add(
        self, output: Tensor, call: _Call, moves: tuple[Any, ...] = (), link: str = "", *, uncounted: bool = False
    ) -> None:
        known, key = self._known, id(output)

        def forget(reference: weakref.ref[Tensor]) -> None:
            if key in known and known[key].tensor is reference:
                del known[key]

        known[key] = _Logits(weakref.ref(output, forget), call, version_of(output), moves, link, uncounted)


def _is_one_factor(value: Any, logits: Tensor) -> bool:
    """Is this one number for all logits of a batch, however many rows it has?"""
    if isinstance(value, Tensor):
        return value.dim() == 0 or (value.shape == (1,) and logits.dim() > 1)
    return isinstance(value, (int, float)) and not isinstance(value, bool)

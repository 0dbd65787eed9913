"""Which torch calls turn row terms into a scalar, and what the terms of such a call are.

A training loss is made of reductions: a loss function with ``reduction="mean"`` or ``"sum"``, or a hand-written
``.mean()``, ``.sum()`` or norm down to one number. `recognise` tells whether a call is one of them and returns a
`Reduction`, which can be run as it was called and taken apart into `Terms`::

    scalar = sum(values * norm)

Losses of torch.nn.functional are taken apart by calling them again with ``reduction="none"``, so the same code serves
every one of them, with class weights, ``ignore_index`` and label smoothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select.signals.recording.terms import SHARED, Reduction, Terms

__all__ = ["LOSSES", "REDUCERS", "recognise", "unreduced"]

_CLASS_LOSSES = frozenset({"cross_entropy", "nll_loss", "linear_cross_entropy"})
"""Losses with ``ignore_index`` and class weights that also weigh the mean."""

_ROW_LOSSES = frozenset(
    {"cosine_embedding_loss", "ctc_loss", "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss"}
    | {"triplet_margin_loss", "triplet_margin_with_distance_loss"}
)
"""Losses that give one term for each row of features."""

_ELEMENT_LOSSES = frozenset(
    {"binary_cross_entropy", "binary_cross_entropy_with_logits", "gaussian_nll_loss", "hinge_embedding_loss"}
    | {"huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss", "poisson_nll_loss", "smooth_l1_loss"}
    | {"soft_margin_loss"}
)
"""Losses that give one term for each number."""

LOSSES: frozenset[Callable[..., Tensor]] = frozenset(
    getattr(F, name)
    for name in _CLASS_LOSSES | _ROW_LOSSES | _ELEMENT_LOSSES
    if hasattr(F, name)  # linear_cross_entropy is newer than the oldest torch that we support
)
"""Every function of torch.nn.functional with a ``reduction`` argument."""

_MEANS = frozenset({torch.mean, Tensor.mean, torch.nanmean, Tensor.nanmean})
_SUMS = frozenset({torch.sum, Tensor.sum, torch.nansum, Tensor.nansum})
_DOTS = frozenset(
    {torch.dot, Tensor.dot, torch.inner, Tensor.inner, torch.vdot, Tensor.vdot, torch.matmul, Tensor.matmul}
)
_NORMS = frozenset({torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm})
REDUCERS: frozenset[Any] = LOSSES | _MEANS | _SUMS | _DOTS | _NORMS


def recognise(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reduction | None:
    """The reduction that this call is, or ``None`` for any other call (``reduction="none"``, a mean along one axis)."""
    if func in LOSSES:
        return _loss(func, args, kwargs)
    if not args and "input" in kwargs:
        args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
    if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point() or args[0].is_nested:
        return None
    if func in _DOTS:
        return _dot(func, args)
    if kwargs.get("out") is None and args[0].dim() and _is_full(args[0], args[1:], kwargs, func in _NORMS):
        return _arithmetic(func, args, kwargs)
    return None


def unreduced(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, int]:
    """Logits, targets and the class to ignore of a cross entropy that is not reduced."""
    arguments = {**_by_name(F.cross_entropy, args), **kwargs}
    return arguments["input"], arguments["target"], arguments.get("ignore_index", -100)


def _loss(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reduction | None:
    arguments = {**_by_name(func, args), **kwargs}
    reduction = _resolve_reduction(arguments)
    if reduction == "none":
        return None
    name = func.__name__
    by_arguments = _rows_in_arguments(name, arguments)
    return Reduction(
        name=f"F.{name}",
        arguments=arguments,
        run=lambda values: func(**values),
        split=lambda values: _loss_terms(func, values, reduction),
        row_axis=1 if name == "ctc_loss" and arguments["log_probs"].dim() == 3 else None,
        by_arguments=by_arguments,
        halfway=partial(_from_log_softmax, arguments, reduction) if by_arguments and _is_nll(func, arguments) else None,
        summed=reduction == "sum",
    )


def _is_nll(func: Callable[..., Tensor], arguments: Mapping[str, Any]) -> bool:
    """Is this a cross entropy that torch computes by a log-softmax in full precision and a negative log-likelihood?"""
    if func is not F.cross_entropy or arguments.get("label_smoothing"):
        return False
    logits, target = arguments["input"], arguments["target"]
    return logits.dtype in (torch.float32, torch.float64) and not target.is_floating_point()


def _from_log_softmax(arguments: Mapping[str, Any], reduction: str) -> Reduction:
    log_probabilities = torch.log_softmax(arguments["input"], dim=min(arguments["input"].dim() - 1, 1))
    shared = {key: arguments[key] for key in ("target", "weight", "ignore_index") if key in arguments}
    return Reduction(
        name="F.nll_loss",
        arguments={"input": log_probabilities, **shared, "reduction": reduction},
        run=lambda values: F.nll_loss(**values),
        split=lambda values: _loss_terms(F.nll_loss, values, reduction),
        fresh=True,
        summed=reduction == "sum",
    )


def _rows_in_arguments(name: str, arguments: Mapping[str, Any]) -> bool:
    """Is the row of a term also the row of every number that its gradient reaches?"""
    for key in SHARED:
        value = arguments.get(key)
        if isinstance(value, Tensor) and value.requires_grad:
            return False
    if name == "triplet_margin_with_distance_loss":  # the distance may have parameters of its own
        return False
    if name in _CLASS_LOSSES or name == "ctc_loss":
        return True
    shapes = {v.shape for key, v in arguments.items() if isinstance(v, Tensor) and key not in SHARED}
    if name in _ELEMENT_LOSSES:
        return len(shapes) == 1
    return len({shape[:1] for shape in shapes}) == 1  # an anchor or a prototype may be broadcast over the rows


def _loss_terms(func: Callable[..., Tensor], arguments: Mapping[str, Any], reduction: str) -> Terms:
    legacy = ("size_average", "reduce")
    values = func(**{key: value for key, value in arguments.items() if key not in legacy} | {"reduction": "none"})
    name, target, weight = func.__name__, arguments.get("target"), arguments.get("weight")
    mask = None
    if name in _CLASS_LOSSES and target is not None and not target.is_floating_point():
        ignored = arguments.get("ignore_index")
        mask = (target, -100 if ignored is None else ignored)
    if reduction == "sum":
        return Terms(values, 1.0, mask)
    if reduction == "batchmean":
        return Terms(values, 1.0 / arguments["input"].shape[0], mask)
    if mask is not None and weight is not None:
        valid = mask[0] != mask[1]
        share = valid.to(values.dtype) * weight.detach()[mask[0].masked_fill(~valid, 0)]
        return Terms(values, 1.0 / share.sum(), mask)
    if name == "ctc_loss":
        lengths = torch.as_tensor(arguments["target_lengths"], device=values.device).clamp(min=1)
        return Terms(values, 1.0 / (lengths * values.numel()))
    if weight is not None and name in ("mse_loss", "l1_loss"):  # F.huber_loss divides by the number of its terms
        return Terms(values, 1.0 / weight.detach().sum())
    return Terms(values, None, mask)


def _arithmetic(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reduction:
    def split(values: Mapping[str, Any]) -> Terms:
        x = values["input"]
        if func in _SUMS:
            return Terms(torch.nan_to_num(x) if "nan" in func.__name__ else x, 1.0)
        if func in _MEANS:
            if "nan" not in func.__name__:
                return Terms(x)
            there = ~x.isnan()
            return Terms(torch.where(there, x, 0.0), None, there)
        # A norm is the root of a sum of squares; its share of each square is that of its derivative.
        return Terms(x.square(), 0.5 / x.detach().square().sum().sqrt())

    return Reduction(
        name=f"Tensor.{func.__name__.removeprefix('linalg_')}",
        arguments={"input": args[0]},
        run=lambda values: func(values["input"], *args[1:], **kwargs),
        split=split,
    )


def _dot(func: Callable[..., Tensor], args: Sequence[Any]) -> Reduction | None:
    if len(args) < 2 or not isinstance(args[1], Tensor) or args[0].dim() != 1 or args[1].dim() != 1:
        return None
    return Reduction(
        name=f"Tensor.{func.__name__}",
        arguments={"input": args[0], "other": args[1]},
        run=lambda values: func(values["input"], values["other"]),
        split=lambda values: Terms(values["input"] * values["other"], 1.0),
    )


def _is_full(x: Tensor, rest: Sequence[Any], kwargs: Mapping[str, Any], norm: bool) -> bool:
    """Does the call reduce ``x`` to one number, and would it whatever the number of rows?"""
    if norm:
        order = kwargs.get("p", kwargs.get("ord", rest[0] if rest else 2))
        dims = kwargs.get("dim", rest[1] if len(rest) > 1 else None)
        return order in (2, 2.0, "fro", None) and dims is None
    dims = kwargs.get("dim", kwargs.get("axis", rest[0] if rest else None))
    if kwargs.get("keepdim", rest[1] if len(rest) > 1 else False) is True:
        return False
    if dims is None or isinstance(dims, torch.dtype):
        return True
    reduced = {dims % x.dim()} if isinstance(dims, int) else {dim % x.dim() for dim in dims} or set(range(x.dim()))
    # Of one row, the mean over the features is one number too; of two rows it is not.
    return 0 in reduced and all(size == 1 for dim, size in enumerate(x.shape) if dim not in reduced)


def _resolve_reduction(arguments: Mapping[str, Any]) -> str:
    """The reduction asked for, through today's argument or through the two that torch deprecated."""
    average, reduce = arguments.get("size_average"), arguments.get("reduce")
    if average is None and reduce is None:
        return str(arguments.get("reduction", "mean"))
    if reduce is False:
        return "none"
    return "sum" if average is False else "mean"


def _by_name(func: Callable[..., Any], args: Sequence[Any]) -> dict[str, Any]:
    # Torch 2.6 traces this where a step is compiled, and cannot trace a zip that is told not to be strict.
    return dict(zip(_parameters(func), args))  # noqa: B905


@cache
def _parameters(func: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(func).parameters)

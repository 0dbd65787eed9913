"""What a row looks like where it is text, numbers, a series, or anything else."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_select.reports.drawing import Drawing, Html
from lightning_select.reports.wording import count, cut, number

__all__ = ["Array", "describe", "host", "pairs", "plain", "scalar", "wave"]

Array = Tensor | NDArray[Any]
TEXT_LENGTH = 600
RAW_LENGTH = 300
TEXTS = 8
LINES = 14
CELL_LENGTH = 60
SAMPLES = 200_000
COLUMNS = 180


class _Short(reprlib.Repr):
    """The standard library's short ``repr``, which would sort all keys of a dict, however many, to show some."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}"
        shown = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in islice(x.items(), self.maxdict)]
        return f"{{{', '.join(shown)}{', ...' if len(x) > self.maxdict else ''}}}"

    def repr_set(self, x: set[Any], level: int) -> str:
        return f"a set of {count(len(x))}"

    def repr_frozenset(self, x: frozenset[Any], level: int) -> str:
        return f"a frozenset of {count(len(x))}"

    def repr_instance(self, x: Any, level: int) -> str:
        return describe(x)


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlong = 60
_SHORT.maxlist = _SHORT.maxtuple = 12


def describe(value: Any, most: int = RAW_LENGTH) -> str:
    """A short text for anything at all; never raises."""
    try:
        if isinstance(value, (Tensor, np.ndarray)):
            return cut(_array_text(value), most)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cut(repr(bytes(value[:most])), most)
        known = isinstance(value, (str, int, float, list, tuple, Mapping, set, frozenset))
        return cut(_SHORT.repr(value) if known else repr(value), most)
    except Exception as error:
        return f"{type(value).__name__}, whose repr raised {type(error).__name__}"


def plain(value: str | bytes | Sequence[str]) -> tuple[str, str]:
    """The beginning of a text, of bytes or of several texts, and what was left out."""
    if not isinstance(value, (str, bytes)):
        shown = "\n".join(f"[{place}] {cut(text, TEXT_LENGTH // TEXTS)}" for place, text in enumerate(value[:TEXTS]))
        return shown, f"the first {TEXTS} of {count(len(value))} texts" if len(value) > TEXTS else ""
    value = str.__str__(value) if isinstance(value, str) else value
    head = value[:TEXT_LENGTH]
    # Bytes that are no text are shown as the escapes that Python would show.
    text = head if isinstance(head, str) else head.decode("utf-8", "backslashreplace")
    lines = text.split("\n")
    text = "\n".join(lines[:LINES])
    if len(value) == len(head) and len(lines) <= LINES:
        return text, ""
    unit = "characters" if isinstance(value, str) else "bytes"
    return text, f"the beginning of {count(len(value))} {unit}"


def scalar(value: Any) -> str | None:
    """A number, a short string, a flag or nothing, in words; ``None`` for what is none of these."""
    if isinstance(value, (Tensor, np.ndarray)):
        return scalar(value.item()) if value.ndim == 0 else None
    if isinstance(value, np.generic):
        return scalar(value.item())
    if value is None or isinstance(value, (bool, complex)):
        return str(value)
    if isinstance(value, (int, float)):
        return f"{value:.6g}" if isinstance(value, float) else cut(str(value), CELL_LENGTH)
    # A text that calls itself safe for HTML is a text like any other here.
    return str.__str__(value) if isinstance(value, str) and len(value) <= CELL_LENGTH else None


def pairs(named: Iterable[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Names and values of a table row."""
    return tuple((cut(name, CELL_LENGTH), scalar(one) or "") for name, one in named)


def wave(series: Array) -> tuple[Html, str]:
    """The outline of a series of any length, and what it is in words.

    Of a long series every ``k``-th value is looked at, so that ``SAMPLES`` are.
    """
    length = len(series)
    values = np.nan_to_num(host(series[:: max(1, length // SAMPLES)]).astype(np.float64), posinf=0.0, neginf=0.0)
    text = f"{count(length)} values from {number(values.min())} to {number(values.max())}"
    drawing = Drawing(COLUMNS, 48, f"waveform: {text}", stretch=True)
    edges = np.linspace(0, len(values), min(COLUMNS, len(values)) + 1).astype(np.int64)[:-1]
    low, high = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
    largest = float(max(abs(low.min()), abs(high.max()))) or 1.0
    across = np.linspace(0, COLUMNS, len(edges)).tolist()
    upper = [(x, 24 - 23 * (y / largest)) for x, y in zip(across, high.tolist(), strict=True)]
    lower = [(x, 24 - 23 * (y / largest)) for x, y in zip(across, low.tolist(), strict=True)]
    drawing.path(upper + lower[::-1], "wave", closed=True)
    return drawing.html(), text


def host(array: Array) -> NDArray[Any]:
    """An array in the memory of the host, of a type that NumPy knows."""
    if not isinstance(array, Tensor):
        return np.asarray(array)
    array = array.detach().as_subclass(Tensor).cpu().resolve_conj().resolve_neg()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def _array_text(array: Array) -> str:
    """Type, shape and, where they can be read, the first values."""
    kind = "tensor" if isinstance(array, Tensor) else "array"
    shape = " x ".join(map(str, array.shape)) or "no axes"
    text = f"{kind} of {str(array.dtype).removeprefix('torch.')}, {shape}"
    try:
        shown = [scalar(value) or describe(value, CELL_LENGTH) for value in host(_first(array)).tolist()]
    except (RuntimeError, NotImplementedError, IndexError, TypeError):  # sparse, without memory, quantised, empty
        return text
    return f"{text}: {', '.join(shown)}{', ...' if int(np.prod(array.shape)) > len(shown) else ''}"


def _first(array: Array, most: int = 8) -> Array:
    """The first values, without a copy of the rest."""
    while array.ndim > 1:
        array = array[0]
    return array.reshape(-1)[:most]

"""Rows of a dataset as what they are: images, texts, table rows, series, or a few words on anything else.

A row comes from the data of the user and may be anything: nothing here raises, takes long or writes markup that is not
escaped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from lightning_select.reports.drawing import Html
from lightning_select.reports.preview_images import array_picture, is_picture, looks_like_image, pil_picture
from lightning_select.reports.preview_values import Array, describe, host, pairs, plain, scalar, wave
from lightning_select.reports.wording import count, cut

__all__ = ["Preview", "preview", "preview_row"]

MOST_PARTS = 8
MOST_CELLS = 64
AUDIO = 1_000
LONGEST_LIST = 1_000_000
DEPTH = 3
PART_LENGTH = 120
SHORT_TEXT = 60
RANKS = ("image", "wave", "text", "table", "label")


@dataclass(frozen=True)
class Preview:
    """A row as the page shows it.

    Attributes:
        kind: ``image``, ``text``, ``table``, ``wave`` or ``raw``.
        text: The text, or words for the image or the series.
        source: Data URI of the image.
        drawing: Outline of the series.
        cells: Names and values of the table row.
        note: What was left out.
        parts: What else the row holds, by name.
    """

    kind: str
    text: str = ""
    source: str = ""
    drawing: Html | None = None
    cells: tuple[tuple[str, str], ...] = ()
    note: str = ""
    parts: tuple[tuple[str, str], ...] = ()


def preview_row(show: Callable[[int], Any], row: int) -> Preview:
    """What a dataset holds at a row, or why that cannot be shown."""
    try:
        value = show(row)
    except Exception as error:
        return Preview("raw", describe(error), note="This row could not be read.")
    return preview(value)


def preview(value: Any) -> Preview:
    """Anything, as the page shows it; never raises.

    Images are arrays and tensors (C, H, W), (H, W, C) or (H, W) and images of Pillow; texts are strings, bytes and
    lists of strings; table rows are up to 64 numbers and mappings of numbers and short strings; more numbers in a row
    are a series, audio for example. Of a tuple, a mapping or a dataclass of several of these, the first image, else the
    first series, text or table row is shown, and the rest in a few words.
    """
    return _tried(value, DEPTH)


def _tried(value: Any, depth: int) -> Preview:
    try:
        return _recognised(value, depth)
    except Exception:  # a row may be any object, and any of its methods may fail
        return Preview("raw", describe(value))


def _recognised(value: Any, depth: int) -> Preview:
    if isinstance(value, (str, bytes)):
        text, note = plain(value)
        return Preview("text", text, note=note)
    if is_picture(value):
        picture = pil_picture(value)
        return Preview("image", picture.text, picture.source)
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_array(value)
    named = _named(value)
    if not named or depth == 0:
        return Preview("raw", scalar(value) or describe(value))
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for _, one in named):
        text, note = plain(value)
        return Preview("text", text, note=note)
    if all(scalar(one) is not None for _, one in named):
        return _of_scalars(value, named)
    return _composed(value, named[:MOST_PARTS], depth)


def _of_array(array: Array) -> Preview:
    numeric = not array.is_complex() if isinstance(array, Tensor) else array.dtype.kind in "biuf"
    if array.ndim == 0 or not numeric or 0 in array.shape:
        return Preview("raw", scalar(array) or describe(array))
    floats = array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
    note = ""
    if array.ndim == 2 and (len(array) == 1 or (len(array) == 2 and floats and array.shape[1] > AUDIO)):
        note = "the first of 2 channels" if len(array) == 2 else ""
        array = array[0]
    if array.ndim == 1 and len(array) <= MOST_CELLS:
        return Preview("table", cells=pairs((str(place), one) for place, one in enumerate(host(array))))
    if array.ndim == 1 and floats:
        drawing, text = wave(array)
        return Preview("wave", text, drawing=drawing, note=note)
    if looks_like_image(array):
        picture = array_picture(array)
        return Preview("image", picture.text, picture.source)
    return Preview("raw", describe(array))


def _of_scalars(value: Any, named: list[tuple[str, Any]]) -> Preview:
    """A table row; many floats without names are a series instead."""
    if isinstance(value, (list, tuple)) and len(value) > MOST_CELLS:
        if len(value) <= LONGEST_LIST and all(isinstance(one, float) for _, one in named):
            return _of_array(np.asarray(value, np.float64))
        return Preview("raw", describe(value))
    longer = isinstance(value, Mapping) and len(value) > len(named)
    note = f"the first {MOST_CELLS} of {count(len(value))} values" if longer else ""
    return Preview("table", cells=pairs(named), note=note)


def _named(value: Any) -> list[tuple[str, Any]]:
    """The first parts of something that has parts, by name or position; empty for anything else."""
    if isinstance(value, Mapping):
        return [(str(name), one) for name, one in islice(value.items(), MOST_CELLS)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))[:MOST_CELLS]
    if isinstance(value, (list, tuple)):
        return [(f"item {place}", one) for place, one in enumerate(value[:MOST_CELLS])]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)[:MOST_CELLS]]
    return []


def _composed(value: Any, named: list[tuple[str, Any]], depth: int) -> Preview:
    """The part that says most, and the others in a few words."""
    shown = [(name, part, _tried(part, depth - 1)) for name, part in named]
    best = min(range(len(shown)), key=lambda place: _rank(shown[place][2]))
    rest = [(cut(name, PART_LENGTH), _words(part)) for place, (name, part, _) in enumerate(shown) if place != best]
    if _rank(shown[best][2]) == len(RANKS):
        return Preview("raw", parts=tuple((cut(name, PART_LENGTH), _words(part)) for name, part, _ in shown))
    main = shown[best][2]
    return dataclasses.replace(main, parts=(*main.parts, *rest))


def _rank(found: Preview) -> int:
    """How much a part says of a row; a short text says less than a table, being its label more often than not."""
    kind = "label" if found.kind == "text" and len(found.text) <= SHORT_TEXT else found.kind
    return RANKS.index(kind) if kind in RANKS else len(RANKS)


def _words(part: Any) -> str:
    return scalar(part) or describe(part, PART_LENGTH)

"""Small pictures of images in whatever form a dataset holds them.

A PNG is written here, by zlib: twenty lines, so that a page needs no imaging library.
"""

from __future__ import annotations

import base64
import struct
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_select.reports.preview_values import Array, host
from lightning_select.reports.wording import count, number

__all__ = ["Picture", "array_picture", "is_picture", "looks_like_image", "pil_picture", "png"]

SIDE = 96
"""Pixels of the longer side of a picture."""
CHANNELS = (1, 3, 4)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An image for the page.

    Attributes:
        source: PNG as a data URI.
        text: Its size and what was done to show it.
    """

    source: str
    text: str


def is_picture(value: Any) -> bool:
    """Is it an image of Pillow? Pillow is asked for only where the dataset imported it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def looks_like_image(array: Array) -> bool:
    """Are the axes those of an image: (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels?"""
    shape = _shape(array)
    if 0 in shape:
        return False
    return len(shape) == 2 or (len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS))


def array_picture(array: Array) -> Picture:
    """A picture of an array for which `looks_like_image` holds.

    Args:
        array: Bytes, or floats from 0 to 1. Other ranges are stretched from their smallest value, black, to their
            largest, and the text says so. What is not finite is drawn as the smallest value.
    """
    shape = _shape(array)
    array = array.reshape(shape)
    first = len(shape) == 3 and shape[0] in CHANNELS
    height, width = shape[1:] if first else shape[:2]
    # Not more than some hundred thousand values are moved to the host, however large the image.
    skip = max(1, min(height, width) // (4 * SIDE), max(height, width) // (16 * SIDE))
    seen = host(array[:, ::skip, ::skip] if first else array[::skip, ::skip])
    pixels, note = _bytes_of(np.moveaxis(seen, 0, 2) if first else seen.reshape(*seen.shape[:2], -1))
    return Picture(png(_shrunk(pixels)), f"{count(width)} x {count(height)} pixels{note}")


def pil_picture(image: Any) -> Picture:
    """A picture of an image of Pillow."""
    width, height = image.size
    if image.mode in ("I", "F") or image.mode.startswith("I;"):  # numbers of any range, not colours
        return array_picture(np.asarray(image))
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if scale < 1 and image.mode in ("L", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB"):
        image = image.resize(size, reducing_gap=2.0)
    pixels = np.asarray(image.convert("RGBA"))
    return Picture(png(_shrunk(pixels)), f"{count(width)} x {count(height)} pixels")


def png(pixels: Pixels) -> str:
    """A data URI of an image, shape (H, W, C) with 1 channel (grey), 3 (RGB) or 4 (RGBA)."""
    height, width, channels = pixels.shape
    # Bit depth 8, then the colour type, then the only methods of compression, filtering and interlacing.
    head = struct.pack(">2I5B", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    # Each line begins with the number of its filter: none.
    lines = np.zeros((height, 1 + width * channels), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + _chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(SIGNATURE + chunks).decode('ascii')}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _shape(array: Array) -> tuple[int, ...]:
    """The shape without leading axes of length 1 that an image does not have."""
    shape = tuple(array.shape)
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _bytes_of(values: NDArray[Any]) -> tuple[Pixels, str]:
    """Values of any range as bytes, and what was done to them."""
    if values.dtype == np.uint8:
        return values, ""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255, ""
    finite = np.isfinite(values)
    # Far beyond any image, and still safe to subtract.
    floats = np.clip(values.astype(np.float64), -1e300, 1e300)
    lost = f", {count((~finite).sum())} not finite" if not finite.all() else ""
    if not finite.any():
        return np.zeros(values.shape, np.uint8), lost
    low, high = float(floats[finite].min()), float(floats[finite].max())
    floats = np.where(finite, floats, low)
    if np.issubdtype(values.dtype, np.integer):
        # Whole numbers up to 255 are an image's; those that end far below are more likely the numbers of classes.
        unit, known = 1, low >= 0 and 127 < high <= 255
    else:
        unit, known = 255, low >= 0 and high <= 1
    if known:
        return np.rint(floats * unit).astype(np.uint8), lost
    if low == high:
        return np.full(values.shape, 128, np.uint8), f", all {number(low)}{lost}"
    stretched = (floats - low) / (high - low)
    return np.rint(stretched * 255).astype(np.uint8), f", stretched from {number(low)} to {number(high)}{lost}"


def _shrunk(pixels: Pixels) -> Pixels:
    """Means over blocks, so that the longer side has at most `SIDE` pixels."""
    height, width, _ = pixels.shape
    scale = max(1.0, max(height, width) / SIDE)
    for axis, length in enumerate((height, width)):
        parts = max(1, round(length / scale))
        edges = (np.arange(parts) * length) // parts
        sums = np.add.reduceat(pixels.astype(np.float32), edges, axis=axis)
        sizes = np.diff(np.append(edges, length)).astype(np.float32)
        pixels = np.rint(sums / np.expand_dims(sizes, tuple({0, 1, 2} - {axis}))).astype(np.uint8)
    return pixels

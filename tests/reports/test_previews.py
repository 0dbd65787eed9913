from __future__ import annotations

import base64
import collections
import dataclasses
import io
import re
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.reports.preview_images import png
from lightning_select.reports.previews import preview, preview_row


def pixels_of(source: str) -> np.ndarray:
    """Decode a PNG of ours by the letter of its specification: checks each chunk, filter 0 only."""
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">2I5B", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3, 6: 4}[colour]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)


def test_a_png_holds_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(pixels_of(png(pixels)), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_others_read_our_png(channels):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    read = np.asarray(image.open(io.BytesIO(base64.b64decode(png(pixels).split(",")[1]))))
    assert np.array_equal(read.reshape(5, 7, channels), pixels)


ramp = np.arange(20, dtype=np.uint8).reshape(5, 4) * 11


@pytest.mark.parametrize(
    ("value", "shape", "corner"),
    [
        (ramp, (5, 4, 1), 209),
        (torch.from_numpy(ramp), (5, 4, 1), 209),
        (np.stack([ramp] * 3), (5, 4, 3), 209),
        (np.stack([ramp] * 4, axis=-1), (5, 4, 4), 209),
        (ramp[None], (5, 4, 1), 209),
        (ramp[None, None], (5, 4, 1), 209),
        (torch.from_numpy(ramp / 255).expand(3, 5, 4), (5, 4, 3), 209),
        (torch.from_numpy(ramp / 255).bfloat16(), (5, 4, 1), 209),
        (ramp.astype(np.float64) * 7 - 3, (5, 4, 1), 255),
        (ramp.astype(np.int64), (5, 4, 1), 209),
        (ramp.astype(np.int64) // 11, (5, 4, 1), 255),
        (ramp > 100, (5, 4, 1), 255),
        (np.full((5, 4), np.nan), (5, 4, 1), 0),
        (np.full((5, 4), -7.0), (5, 4, 1), 128),
        (np.where(ramp == 0, np.nan, ramp / 255), (5, 4, 1), 209),
        (np.where(ramp == 0, -np.inf, ramp / 255), (5, 4, 1), 209),
        (np.array([[0.0, 1e308], [-1e308, 5.0]]), (2, 2, 1), 128),
    ],
)
def test_images_of_any_kind(value, shape, corner):
    found = preview(value)
    assert found.kind == "image"
    pixels = pixels_of(found.source)
    assert pixels.shape == shape
    assert abs(int(pixels[-1, -1, 0]) - corner) <= 1


@pytest.mark.parametrize("size", [(200, 100), (97, 96), (1000, 3), (3, 4000), (96, 1), (3000, 5000)])
def test_large_images_are_means_over_blocks(size):
    draw = np.random.default_rng(0)
    image = np.cumsum(draw.normal(size=size), axis=0).astype(np.float32)
    image = (image - image.min()) / (image.max() - image.min())
    small = pixels_of(preview(image).source)[..., 0]
    height, width = small.shape
    assert max(height, width) <= 96
    assert (height, width) == tuple(max(1, round(side / max(1, max(size) / 96))) for side in size)
    skip = max(1, min(size) // 384, max(size) // 1536)
    seen = np.rint(image[::skip, ::skip] * 255)
    for line, column in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
        top, bottom = line * seen.shape[0] // height, (line + 1) * seen.shape[0] // height
        left, right = column * seen.shape[1] // width, (column + 1) * seen.shape[1] // width
        assert abs(float(small[line, column]) - seen[top:bottom, left:right].mean()) <= 1.5


def test_what_was_done_to_an_image_is_told():
    assert preview(ramp).text == "4 x 5 pixels"
    assert preview(ramp * 2.0 - 40).text == "4 x 5 pixels, stretched from -40 to 378"
    assert preview(np.full((5, 4), 2.5)).text == "4 x 5 pixels, all 2.5"
    assert preview(np.where(ramp < 20, np.nan, 0.5)).text == "4 x 5 pixels, 2 not finite"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "I;16"])
def test_images_of_pillow(mode):
    image = pytest.importorskip("PIL.Image")
    grey = image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (50, 1)))
    made = image.new("I;16", (200, 50), 700) if mode == "I;16" else grey.convert("RGB" if mode == "HSV" else "L")
    made = made if mode in ("I;16", "L") else made.convert("RGB").convert(mode) if mode == "LAB" else made.convert(mode)
    found = preview((made, 3))
    assert found.kind == "image"
    assert found.text.startswith("200 x 50 pixels")
    assert pixels_of(found.source).shape[:2] == (24, 96)
    assert found.parts == (("item 1", "3"),)


@pytest.mark.parametrize(
    ("value", "text", "note"),
    [
        ("plain", "plain", ""),
        ("x" * 5000, "x" * 600, "the beginning of 5,000 characters"),
        ("\n".join("abcdefghijklmnopqrst"), "\n".join("abcdefghijklmn"), "the beginning of 39 characters"),
        (b"caf\xc3\xa9 \xff", "café \\xff", ""),
        (["one", "two"], "[0] one\n[1] two", ""),
        ([str(n) for n in range(9)], "\n".join(f"[{n}] {n}" for n in range(8)), "the first 8 of 9 texts"),
    ],
)
def test_texts(value, text, note):
    found = preview(value)
    assert (found.kind, found.text, found.note) == ("text", text, note)


@pytest.mark.parametrize(
    ("value", "cells"),
    [
        (torch.tensor([1.5, 2.0]), (("0", "1.5"), ("1", "2"))),
        (np.array([[3, 4]]), (("0", "3"), ("1", "4"))),
        ([1, 2.5], (("item 0", "1"), ("item 1", "2.5"))),
        (
            {"age": 37, "who": "me", "no": None, "t": torch.tensor(2)},
            (("age", "37"), ("who", "me"), ("no", "None"), ("t", "2")),
        ),
        ((float("nan"), True), (("item 0", "nan"), ("item 1", "True"))),
    ],
)
def test_table_rows(value, cells):
    found = preview(value)
    assert (found.kind, found.cells) == ("table", cells)


def test_long_table_rows_are_cut():
    found = preview({f"x{n}": n for n in range(100)})
    assert len(found.cells) == 64
    assert found.note == "the first 64 of 100 values"


@pytest.mark.parametrize("shape", [(16000,), (1, 16000), (2, 16000), (100,)])
@pytest.mark.parametrize("make", [torch.tensor, np.asarray])
def test_series(shape, make):
    values = np.sin(np.arange(shape[-1]) / 10).astype(np.float32)
    found = preview((make(np.broadcast_to(values, shape).copy()), 16000, "dog"))
    assert found.kind == "wave"
    assert found.text == f"{shape[-1]:,} values from {values.min():.3g} to {values.max():.3g}"
    assert found.note == ("the first of 2 channels" if shape[0] == 2 else "")
    assert found.parts == (("item 1", "16000"), ("item 2", "dog"))
    assert str(found.drawing).startswith("<svg")


@pytest.mark.parametrize("length", [90, 180, 5000])
def test_the_outline_holds_the_largest_and_the_smallest_value_of_each_stretch(length):
    values = np.random.default_rng(0).normal(size=length)
    found = re.findall(r"(-?[\d.]+) (-?[\d.]+)", str(preview(values).drawing).split(' d="')[1])
    many = min(180, length)
    bounds = [int(place * length / many) for place in range(many)] + [length]
    parts = [values[bounds[place] : bounds[place + 1]] for place in range(many)]
    expected = [max(part) for part in parts] + [min(part) for part in reversed(parts)]
    assert [float(y) for _, y in found] == pytest.approx([24 - 23 * y / max(abs(values)) for y in expected], abs=0.06)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e308, -1e308])
def test_series_of_one_odd_value(value):
    found = preview(np.full(2000, value))
    assert found.kind == "wave"
    assert not any(word in str(found.drawing) for word in ("nan", "inf "))


Pair = collections.namedtuple("Pair", ["image", "label"])


@dataclasses.dataclass
class Sample:
    words: str
    label: int


@pytest.mark.parametrize(
    ("value", "kind", "parts"),
    [
        (("a caption of this picture", ramp), "image", (("item 0", "a caption of this picture"),)),
        (Pair(ramp, torch.tensor(3)), "image", (("label", "3"),)),
        (Sample("long " * 50, 2), "text", (("label", "2"),)),
        ({"audio": {"array": np.zeros(2000), "rate": 8000}, "id": "x"}, "wave", (("rate", "8000"), ("id", "x"))),
        ((torch.zeros(8), "yes"), "table", (("item 1", "yes"),)),
        (
            {"input_ids": torch.arange(100), "labels": torch.arange(100)},
            "raw",
            (
                ("input_ids", "tensor of int64, 100: 0, 1, 2, 3, 4, 5, 6, 7, ..."),
                ("labels", "tensor of int64, 100: 0, 1, 2, 3, 4, 5, 6, 7, ..."),
            ),
        ),
    ],
)
def test_rows_of_several_parts(value, kind, parts):
    found = preview(value)
    assert (found.kind, found.parts) == (kind, parts)


class Broken:
    def __repr__(self):
        raise ValueError("no repr")


class Hostile(dict):
    def items(self):
        raise RuntimeError("no items")


class Talkative:
    def __repr__(self):
        return "x" * 10_000_000


class SilentError(Exception):
    def __str__(self):
        raise ValueError("no message")

    __repr__ = __str__


def endless() -> list:
    row: list = []
    row.append(row)
    return row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Broken(), "Broken, whose repr raised ValueError"),
        (object, "<class 'object'>"),
        (None, "None"),
        (7, "7"),
        (torch.zeros(2, 3, 4, 5, 6), "tensor of float32, 2 x 3 x 4 x 5 x 6: 0, 0, 0, 0, 0, 0"),
        (torch.zeros(0, 3), "tensor of float32, 0 x 3"),
        (torch.zeros(2, 2, device="meta"), "tensor of float32, 2 x 2"),
        (torch.eye(3).to_sparse(), "tensor of float32, 3 x 3"),
        (torch.zeros(3, dtype=torch.complex64), "tensor of complex64, 3: 0j, 0j, 0j"),
        (torch.tensor(3.5), "3.5"),
        (np.array(["a", "b"]), "array of <U1, 2: a, b"),
        ({1, 2, 3}, "a set of 3"),
        ({}, "{}"),
        ([], "[]"),
        (iter(()), "<tuple_iterator object at"),
    ],
)
def test_anything_else_in_a_few_words(value, text):
    found = preview(value)
    assert found.kind == "raw"
    assert found.text.startswith(text)


@pytest.mark.parametrize(
    "value",
    [Hostile(a=1), (Broken(), SilentError()), endless(), {Broken: 1}, 10**5000, [10**5000]],
    ids=["mapping", "parts", "loop", "key", "number", "numbers"],
)
def test_what_defends_itself_is_shown_all_the_same(value):
    found = preview(value)
    assert found.text or found.parts or found.cells


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1, dtype=torch.uint8).expand(3, 20_000, 20_000),
        lambda: torch.zeros(1).expand(400_000_000),
        lambda: np.broadcast_to(np.float32(1), (4, 4, 4, 10**8)),
        lambda: [0] * 10**7,
        lambda: b"\x00" * 10**8,
        lambda: "x" * 10**8,
        lambda: dict.fromkeys(range(10**6)),
        lambda: (Talkative(), {"deep": Talkative()}),
    ],
    ids=["image", "series", "array", "list", "bytes", "text", "mapping", "repr"],
)
def test_huge_rows_are_quick_and_small(make):
    value = make()
    begin = time.perf_counter()
    found = preview(value)
    assert time.perf_counter() - begin < 2
    assert len(found.source) + len(found.text) + sum(len(a) + len(b) for a, b in (*found.parts, *found.cells)) < 10_000


def test_a_row_that_cannot_be_read_says_why():
    def show(row):
        raise KeyError(f"row {row}")

    found = preview_row(show, 5)
    assert (found.kind, found.text, found.note) == ("raw", "KeyError('row 5')", "This row could not be read.")

    def worse(row):
        raise SilentError

    assert preview_row(worse, 5).text == "SilentError, whose repr raised ValueError"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda parts: st.lists(parts) | st.tuples(parts, parts) | st.dictionaries(st.text() | st.integers(), parts),
    max_leaves=12,
)
arrays = st.builds(
    lambda shape, dtype, seed: (np.random.default_rng(seed).normal(size=shape) * 100).astype(dtype),
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint8, np.int64, np.bool_, np.complex64]),
    st.integers(0, 9),
)


@given(anything | arrays | st.tuples(arrays, anything))
def test_nothing_raises(value):
    found = preview(value)
    assert found.kind in {"image", "text", "table", "wave", "raw"}
    if found.kind == "image":
        assert max(pixels_of(found.source).shape) <= 96


class Safe(str):
    """What libraries of templates call safe for HTML."""

    def __html__(self) -> str:
        return self


def test_a_text_that_calls_itself_safe_is_a_text() -> None:
    from lightning_select.reports.preview_values import plain, scalar

    assert type(scalar(Safe("<b>"))) is str
    assert type(plain(Safe("<b>"))[0]) is str

"""Tensors of classes of their own, as torchvision has for images and masks, stay what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection
from lightning_select.batch import count_rows, take_rows
from lightning_select.errors import BatchFormatError
from lightning_select.scores.loss import Loss
from tests.fitting import First, fit, same, weights_of
from tests.modules import Base

ROWS, WIDTH, KEEP = 8, 6, 4
INDEX = torch.tensor([2, 0])


class Marked(Tensor):
    """Operations on it give plain tensors, as on one of `torchvision.tv_tensors`."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Image(Marked): ...


class Mask(Marked): ...


class Kept(Tensor):
    """Operations on it give others of its class, without its attributes."""


class Fixed(Marked):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.index_select:
            raise TypeError("no such thing")
        return super().__torch_function__(func, types, args, kwargs)


class Wrapped(Tensor):
    """Around another tensor; without memory of its own."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = (one.inner if isinstance(one, Wrapped) else one for one in args)
        return func(*plain, **(kwargs or {}))


def flipped(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """All that are marked; if none is, the first alone."""
    marked = [one for one in (image, mask) if isinstance(one, Marked)] or [image]
    first, second = (one.flip(1) if any(one is other for other in marked) else one for one in (image, mask))
    return first, second


class Segments(Base):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch, batch_idx):
        image, mask = flipped(*batch)
        return F.binary_cross_entropy_with_logits(self(image.as_subclass(Tensor)), mask.as_subclass(Tensor))


def data(rows: int) -> DataLoader:
    """Batches of which the first ``rows`` are left."""
    x = torch.randn(4 * ROWS, WIDTH, generator=torch.Generator().manual_seed(0))

    def collate(cells: list[Tensor]) -> tuple[Image, Mask]:
        values = torch.stack(cells[:rows])
        return values.as_subclass(Image), (values > 0).float().as_subclass(Mask)

    return DataLoader(list(x), batch_size=ROWS, collate_fn=collate)


def test_a_step_that_goes_by_the_class_of_its_tensors_trains_on_the_rows_cut_by_hand() -> None:
    ours = fit(Segments, BatchSelection(Loss(), First(), keep=KEEP), data=data(ROWS))
    assert same(weights_of(ours), weights_of(fit(Segments, data=data(KEEP))))


@pytest.mark.parametrize("kind", [Image, Kept])
def test_class_and_attributes_stay(kind: type[Tensor]) -> None:
    x = torch.arange(12.0).reshape(4, 3)
    part: Any = x.as_subclass(kind)
    part.size_of_all, part.places, part.marks = (7, 9), torch.arange(4), np.arange(4)
    taken = take_rows({"x": part, "y": torch.arange(4)}, INDEX)["x"]
    assert type(taken) is kind
    assert torch.equal(taken.as_subclass(Tensor), x[INDEX])
    assert taken.size_of_all == (7, 9)
    assert taken.places.tolist() == taken.marks.tolist() == [2, 0]
    assert part.places.tolist() == [0, 1, 2, 3]


def test_parameters_and_wrappers_give_what_torch_gives() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    parameter, wrapped = nn.Parameter(x), Wrapped(x)
    for part in (parameter, wrapped):
        assert count_rows(part) == 4
        taken = take_rows(part, INDEX)
        assert type(taken) is Tensor
        assert torch.equal(taken, x[INDEX])
    take_rows(parameter, INDEX).sum().backward()
    assert parameter.grad.sum(1).tolist() == [3.0, 0.0, 3.0, 0.0]


def test_a_class_of_which_no_rows_can_be_taken_is_to_be_taught() -> None:
    part = torch.ones(4, 3).as_subclass(Fixed)
    with pytest.raises(BatchFormatError, match=r"batch\['x'\] must be a .*got Fixed, which says: no.*register\(Fixed"):
        take_rows({"x": part}, INDEX)

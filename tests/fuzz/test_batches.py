"""Batches of any form: rows are counted and taken as a plain loop would, or we say that we do not know how."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from hypothesis import given

from lightning_select.batch import count_rows, shallow_copy, take_rows, tensors_of
from lightning_select.errors import SelectionError
from tests.fuzz.batches import Made, batches, oddities, same
from tests.fuzz.budget import fuzz


@given(batches())
@fuzz(0.30, quick=300)
def test_a_batch_of_known_form_is_cut_row_by_row(made: tuple[Made, int, list[int]]) -> None:
    one, rows, index = made
    before = copy.deepcopy(one.batch)
    assert count_rows(one.batch) == rows
    taken = take_rows(one.batch, torch.tensor(index, dtype=torch.int64))
    assert same(taken, one.taken)
    assert same(one.batch, before)


@given(batches())
@fuzz(0.06, quick=120)
def test_a_copy_holds_the_same_tensors_in_containers_of_its_own(made: tuple[Made, int, list[int]]) -> None:
    batch = made[0].batch
    copied = shallow_copy(batch)
    assert same(copied, batch)
    assert all(mine is theirs for mine, theirs in zip(tensors_of(copied), tensors_of(batch), strict=True))
    first = next(iter(copied))
    del copied[first]
    assert first in batch


@given(oddities())
@fuzz(0.15, quick=300)
def test_a_batch_of_anything_is_cut_or_refused(odd: tuple[Any, int, list[int]]) -> None:
    batch, _, index = odd
    with contextlib.suppress(SelectionError):
        rows = count_rows(batch)
        assert rows >= 0
        if rows > max(index):
            taken = take_rows(batch, torch.tensor(index, dtype=torch.int64))
            assert isinstance(batch, type(taken))  # a parameter becomes a tensor
    with contextlib.suppress(SelectionError):
        shallow_copy(batch)

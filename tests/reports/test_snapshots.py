from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_select.reports.snapshots import Snapshots


def run(batches: int, first: Snapshots | None = None, start: int = 0) -> Snapshots:
    snapshots = first or Snapshots()
    for number in range(start, batches):
        if snapshots.due:
            values = torch.arange(5.0) + number
            snapshots.add(number, number // 10, values, values * 2, torch.tensor(0.5))
        snapshots.count()
    return snapshots


@pytest.mark.parametrize("batches", [1, 255, 256, 1000, 5000])
def test_snapshots_are_few_and_evenly_spaced(batches: int) -> None:
    line = run(batches).timeline()
    assert 1 <= len(line.step) <= 256
    assert len(line.step) > min(batches, 128) - 2
    assert line.step[0] == 0
    assert len(set(np.diff(line.step))) <= 1
    assert batches - line.step[-1] <= (line.step[1] - line.step[0] if len(line.step) > 1 else 1)
    np.testing.assert_array_equal(line.epoch, line.step // 10)
    np.testing.assert_allclose(line.score[:, 2], line.step + 2)  # the median of five
    np.testing.assert_allclose(line.loss[:, 2], 2 * (line.step + 2))
    np.testing.assert_allclose(line.kept, 0.5)


def test_values_that_are_not_finite_are_left_out() -> None:
    snapshots = Snapshots()
    scores = torch.tensor([1.0, -math.inf, math.nan, 3.0])
    snapshots.add(0, 0, scores, torch.tensor([math.nan]), torch.tensor(1.0))
    line = snapshots.timeline()
    assert line.score[0, 2] == 2.0
    assert np.isnan(line.loss).all()


def test_no_batch_no_line() -> None:
    line = Snapshots().timeline()
    assert line.score.shape == (0, 5)
    assert line.kept.shape == (0,)


@pytest.mark.parametrize("cut", [0, 3, 700])
def test_a_state_goes_on_as_if_nothing_had_happened(cut: int) -> None:
    second = Snapshots()
    second.load_state_dict(run(cut).state_dict())
    expected, found = run(1500).timeline(), run(1500, second, cut).timeline()
    for name in ("step", "epoch", "score", "loss", "kept"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))


def test_a_restored_state_follows_the_model_to_its_device() -> None:
    second = Snapshots()
    second.load_state_dict(run(3).state_dict())
    values = torch.rand(4, device="meta")
    second.add(3, 0, values, values, torch.tensor(0.5, device="meta"))
    assert {tensor.device.type for _, _, *tensors in second._taken for tensor in tensors} == {"meta"}

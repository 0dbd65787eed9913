"""Arguments and observations as people have them: tensors in lists, numpy numbers, labels that are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_select.errors import ArgumentError, RowIdError
from lightning_select.samplers.beta_posterior import BetaPosterior
from lightning_select.samplers.category_bandit import CategoryBandit
from lightning_select.samplers.checks import labels_of
from lightning_select.samplers.group_balanced import GroupBalanced
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.samplers.pools import Pools
from lightning_select.samplers.progress import Progress
from lightning_select.samplers.quota import Quota
from lightning_select.samplers.repeated_random import RepeatedRandom
from lightning_select.samplers.weighted import Weighted
from tests.samplers.toy import ByLastLoss

LABELS = [0, 1, 1, 2]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        tuple(LABELS),
        torch.tensor(LABELS),
        np.array(LABELS),
        [torch.tensor(one) for one in LABELS],
        [np.int64(one) for one in LABELS],
        [torch.tensor([one]) for one in LABELS],
    ],
    ids=["list", "tuple", "tensor", "array", "tensors", "numbers", "tensors of one"],
)
def test_labels_of_every_form(labels: Any) -> None:
    names, places = labels_of("Owner", "labels", labels, 4)
    assert names == [0, 1, 2]
    assert places.tolist() == LABELS


@pytest.mark.parametrize("missing", [None, float("nan"), "", np.nan, torch.tensor(torch.nan)])
def test_a_row_without_a_label(missing: Any) -> None:
    with pytest.raises(ArgumentError, match=r"GroupBalanced.groups must hold a label for every row, got .* for row 1"):
        GroupBalanced(3, [1.0 if not isinstance(missing, str) else "a", missing, 1.0])


@pytest.mark.parametrize("labels", [None, 5, "abc", [[1], [2], [3]], torch.zeros(3, 2)])
def test_labels_that_are_none(labels: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"CategoryBandit.categories must hold (one label for each|a label for every)"
    ):
        CategoryBandit(3, labels)


@pytest.mark.parametrize("labels", [{"a", "b", "c"}, frozenset("abc"), {"a": 1, "b": 2, "c": 3}])
def test_labels_without_the_order_of_the_rows(labels: Any) -> None:
    kind = type(labels).__name__
    with pytest.raises(ArgumentError, match=f"CategoryBandit.categories must hold .* in their order, got a {kind}."):
        CategoryBandit(3, labels)


@pytest.mark.parametrize("labels", [[(1, "a"), ("a", 1)], [1j, 2j]])
def test_labels_that_cannot_be_sorted(labels: list[Any]) -> None:
    with pytest.raises(ArgumentError, match=r"GroupBalanced.groups must hold labels that can be sorted, got '<' not"):
        GroupBalanced(2, labels)


def test_labels_without_an_order_of_their_own_are_in_that_of_the_rows() -> None:
    labels = [frozenset(one) for one in ("cd", "ab", "ef", "ab")]
    assert labels_of("Owner", "labels", labels, 4)[1].tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("ids", [[99], [-7], [5]])
def test_ids_outside_the_dataset(ids: list[int]) -> None:
    signals = {"loss": torch.ones(1), "reward": torch.tensor([[1.0, 0.0]])}
    for sampler in (ByLastLoss(5), Pools(5), CategoryBandit(5, [0, 0, 1, 1, 1]), LossProportional(5)):
        with pytest.raises(RowIdError, match=rf"{sampler.owner}.ids must be in \[0, 5\), .* got {ids[0]}"):
            sampler.observe(torch.tensor(ids), signals)


def test_rewards_that_are_not_counted_may_be_anything() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    one, two = (CategoryBandit(3, [0, 1, 1], alpha=1.0) for _ in range(2))
    one.observe(torch.arange(3), {"reward": rewards})
    two.observe(torch.arange(3), {"reward": 2 * rewards - 1})
    torch.testing.assert_close(one.values, two.values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("signals", "told"),
    [
        (torch.ones(1), "must get signals by name, .* got Tensor"),
        ({"loss": None}, "must get numbers as loss, got NoneType"),
        ({"loss": ["a"]}, "must get numbers as loss, got list"),
        ({"loss": [2**400]}, "must get numbers as loss, got list"),
    ],
)
def test_observations_that_are_no_numbers(signals: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=f"ByLastLoss.observe {told}"):
        ByLastLoss(3).observe(torch.tensor([0]), signals)
    with pytest.raises(RowIdError, match="ByLastLoss.ids must be whole numbers, got list"):
        ByLastLoss(3).observe(["a"], {"loss": torch.ones(1)})  # type: ignore[arg-type]


@pytest.mark.parametrize(("success", "attempts"), [(-5.0, 2.0), (5.0, 2.0), (1.0, 0.0), (3.0, None), (0.0, -1.0)])
def test_successes_that_are_not_between_none_and_all_attempts(success: float, attempts: float | None) -> None:
    sampler = Quota(3, [0.5] * 3)
    given = {"success": torch.tensor([1.0, success])}
    given |= {} if attempts is None else {"attempts": torch.tensor([1.0, attempts])}
    of = f"got {success:g} of {1 if attempts is None else attempts:g}"
    with pytest.raises(ArgumentError, match=f"Quota.success must be between 0 and the attempts of its row, {of}"):
        sampler.observe(torch.tensor([0, 1]), given)
    assert sampler.trials.sum() == sampler.updates == 0


def test_successes_may_be_rounded_and_missing() -> None:
    sampler = Quota(4, [0.5] * 4)
    success = torch.tensor([3.0000002, float("nan"), 0.0, 2.0])
    sampler.observe(torch.arange(4), {"success": success, "attempts": torch.tensor([3.0, 2.0, 0.0, float("nan")])})
    assert sampler.trials.tolist() == pytest.approx([3.0, 0.0, 0.0, 0.0])


def test_padding_may_hold_anything() -> None:
    sampler = Quota(4, [0.5] * 4)
    told = {"success": torch.tensor([1.0, -1.0, 7.0]), "attempts": torch.tensor([2.0, -1.0, 0.0])}
    sampler.observe(torch.tensor([2, -1, -1]), told)
    assert sampler.trials.tolist() == [0.0, 0.0, 2.0, 0.0]


def test_observations_as_lists_and_arrays() -> None:
    sampler = ByLastLoss(4)
    sampler.observe(torch.tensor([0, 1]), {"loss": np.array([1.0, 2.0]), "other": [1, 2]})  # type: ignore[dict-item]
    assert sampler.last.tolist() == [1.0, 2.0, 1.0, 1.0]
    with pytest.raises(
        ArgumentError, match=r"ByLastLoss.observe must get one line of loss per id \(2\), got shape \(3,\)"
    ):
        sampler.observe(torch.tensor([0, 1]), {"loss": torch.ones(3)})


def test_numbers_of_numpy() -> None:
    sampler = LossProportional(10, alpha=float(np.float32(0.5)), num_samples=int(np.int64(7)), seed=int(np.int64(1)))
    assert len(sampler) == 7
    assert ByLastLoss(10, num_samples=np.int64(7), seed=np.int64(3)).seed == 3


def test_the_last_share_is_full_where_steps_run_out_before_epochs() -> None:
    sampler = InfoBatch(16, mode="shrinking", full_last=0.25)
    losses = torch.cat([torch.zeros(12), torch.ones(4)])
    sampler.observe(torch.arange(16), {"loss": losses})
    sampler.progress = Progress(step=10, total_steps=20, max_epochs=100)
    sampler.end_epoch()
    assert len(sampler) < 16
    sampler.progress = Progress(step=15, total_steps=20, max_epochs=100)
    sampler.end_epoch()
    assert len(sampler) == 16


def test_weights_can_be_gone_through() -> None:
    assert list(Weighted(3, [1, 2, 3]).weights) == [1.0, 2.0, 3.0]
    for wrong in (None, "abc", {}, object()):
        with pytest.raises(ArgumentError, match="Weighted.weights must be numbers"):
            Weighted(3, wrong)  # type: ignore[arg-type]
    sampler = Weighted(3, [1, 2, 3])
    with pytest.raises(RowIdError, match="Weighted.weights must be read and set by ids of rows"):
        sampler.weights["a"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: BetaPosterior(5, prior=1.0), "BetaPosterior.prior must be 2 numbers, got 1.0"),
        (lambda: Pools(5, thresholds=0.5), "Pools.thresholds must be 2 numbers, got 0.5"),
        (lambda: Quota(5, None), "Quota.pass_rates must hold one rate for each of 5 rows, got NoneType"),
        (lambda: Quota(2, [0.5, 1.0], k=2**70), rf"Quota.k must be at most 2\^53, got {2**70}"),
        (lambda: Quota(2, [0.5, 1.0], max_trials=2**70), rf"Quota.max_trials must be at most 2\^53, got {2**70}"),
        (lambda: Weighted(2, [1, 1], replacement="no"), "Weighted.replacement must be True or False, got 'no'"),
        (lambda: LossProportional(5, replacement=0), "LossProportional.replacement must be True or False, got 0"),
        (lambda: CategoryBandit(2, [0, 1], normalise="no"), "CategoryBandit.normalise must be True or False, got 'no'"),
        (lambda: RepeatedRandom(5, replacement=None), "RepeatedRandom.replacement must be True or False, got None"),
    ],
)
def test_arguments_of_a_wrong_kind(make: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        make()

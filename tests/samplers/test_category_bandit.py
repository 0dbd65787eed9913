from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.category_bandit import CategoryBandit, advantage_size, category_bandit
from lightning_select.samplers.progress import Progress
from lightning_select.schedule import Anneal
from tests.samplers.presets import build, check_defaults, untyped
from tests.samplers.runs import at, chi_square, generator, go_on_alike
from tests.samplers.waits import waits

NAN = math.nan
LABELS = ["algebra", "logic", "words"] * 8


def answers(ids: Tensor, step: int) -> dict[str, Tensor]:
    """What four attempts at each row might give."""
    return {"reward": ((ids.unsqueeze(1) * 7 + torch.arange(4) * 3 + step) % 5 < 2).float()}


def losses(*values: float) -> dict[str, Tensor]:
    return {"loss": torch.tensor(values)}


def test_the_config_is_complete() -> None:
    check_defaults("category_bandit", needed=["categories"])
    assert build("category_bandit", 24, LABELS).names == ["algebra", "logic", "words"]


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_the_softmax_category_by_category(temperature: float) -> None:
    values = [0.1, 0.7, 0.4]
    total = sum(math.exp(one / temperature) for one in values)
    chances = category_bandit(torch.tensor(values, dtype=torch.float64), temperature)
    assert chances.tolist() == pytest.approx([math.exp(one / temperature) / total for one in values])
    shifted = category_bandit(torch.tensor(values, dtype=torch.float64) + 5, temperature)
    torch.testing.assert_close(chances, shifted)


def test_limits_of_the_temperature() -> None:
    values = torch.tensor([0.3, 900.0, 0.4]).double()
    assert category_bandit(values, 1e9).tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert category_bandit(values, 1e-3).tolist() == [0, 1, 0]  # the exponentials alone would overflow
    assert category_bandit(torch.zeros(4), 0.4).tolist() == [0.25] * 4


@pytest.mark.parametrize("normalise", [True, False])
def test_advantages_row_by_row(normalise: bool) -> None:
    rewards = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, NAN, 0.0, 0.5], [1.0, NAN, NAN, NAN], [NAN] * 4]
    by_hand = []
    for row in rewards:
        scored = [one for one in row if not math.isnan(one)]
        if len(scored) < 2:
            by_hand.append("nan")
            continue
        size = statistics.mean(abs(one - statistics.mean(scored)) for one in scored)
        by_hand.append(str(round(size / (statistics.stdev(scored) + 1e-6) if normalise else size, 9)))
    ours = advantage_size(torch.tensor(rewards), normalise=normalise)
    assert [str(round(one, 9)) for one in ours.tolist()] == by_hand


@pytest.mark.parametrize(("rate", "normalised", "centred"), [(0.5, 0.868, 0.4375), (0.05, 0.220, 0.0831)])
def test_advantages_have_the_means_that_are_known(rate: float, normalised: float, centred: float) -> None:
    """Over groups of 8 binary rewards; centred, ``2 p (1 - p) (G - 1) / G``."""
    rewards = (torch.rand(100_000, 8, generator=generator()) < rate).float()
    assert float(advantage_size(rewards).mean()) == pytest.approx(normalised, abs=0.004)
    assert float(advantage_size(rewards, normalise=False).mean()) == pytest.approx(centred, abs=0.001)
    assert float(advantage_size(rewards).max()) <= math.sqrt(7 / 8)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_a_constant_reward_gives_the_closed_form(alpha: float) -> None:
    sampler = CategoryBandit(24, LABELS, alpha=alpha, signal="loss")
    for step in range(1, 12):
        sampler.observe(at(0, 3), losses(0.6, 0.8))
        assert sampler.values.tolist() == pytest.approx([0.7 * (1 - (1 - alpha) ** step), 0, 0])


@pytest.mark.parametrize("absent", ["keep", "decay"])
def test_categories_that_are_absent_keep_their_value_or_decay(absent: str) -> None:
    sampler = CategoryBandit(24, LABELS, absent=absent, signal="loss")
    sampler.observe(at(0, 1), losses(1.0, 1.0))
    for _ in range(3):
        sampler.observe(at(0), losses(1.0))
    assert sampler.values.tolist() == pytest.approx([1 - 0.5**4, 0.5 if absent == "keep" else 0.5**4, 0])


def test_values_come_from_advantages() -> None:
    sampler = CategoryBandit(24, LABELS, normalise=False)
    reward = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, NAN], [NAN, NAN]])
    sampler.observe(at(0, 3, 1, 2, 2), {"reward": reward})
    assert sampler.values.tolist() == [0.5 * (0.5 + 0.0) / 2, 0.5 * 0.5, 0.0]


def test_a_batch_with_every_row_twice_says_the_same() -> None:
    one, two = CategoryBandit(24, LABELS), CategoryBandit(24, LABELS)
    ids = at(0, 1, 2, 3, 4, 7)
    one.observe(ids, answers(ids, 3))
    two.observe(ids.repeat(2), answers(ids.repeat(2), 3))
    torch.testing.assert_close(one.values, two.values)


def test_progress_is_the_change_of_a_category_s_mean_loss() -> None:
    sampler = CategoryBandit(24, LABELS, signal="progress", alpha=1.0)
    sampler.observe(at(0, 3, 1), losses(2.0, 4.0, 1.0))
    assert sampler.values.tolist() == [0, 0, 0]
    sampler.observe(at(1), losses(1.5))
    assert sampler.values.tolist() == [0, 0.5, 0]
    sampler.observe(at(6, 1), losses(2.0, NAN))
    assert sampler.values.tolist() == [1.0, 0.5, 0]


def test_padding_and_losses_that_are_not_finite_say_nothing() -> None:
    sampler = CategoryBandit(24, LABELS, signal="loss", absent="decay")
    sampler.observe(at(-1, 0, 1, 1), losses(9.0, math.inf, NAN, 3.0))
    assert sampler.values.tolist() == [0, 1.5, 0]


def test_draws_follow_the_values() -> None:
    sampler = CategoryBandit(24, LABELS, signal="loss", alpha=1.0, temperature=0.5)
    sampler.observe(at(0, 1, 2), losses(0.2, 1.0, 0.6))
    drawn = sampler.draw(20_000, generator()).ids
    assert abs(chi_square(torch.bincount(drawn % 3), sampler.probabilities)) < 4
    sampler.observe(at(0), losses(100.0))
    assert set((sampler.draw(50, generator()).ids % 3).tolist()) == {0}


def test_without_a_value_all_categories_are_alike_whatever_their_size() -> None:
    sampler = CategoryBandit(20, [0] * 18 + [1] * 2)
    share = float((sampler.draw(10_000, generator()).ids < 18).double().mean())
    assert share == pytest.approx(0.5, abs=0.02)


def test_a_queue_starts_anew_when_it_is_used_up_and_not_before() -> None:
    """A category with fewer rows than are asked for gives each as often as the others of it."""
    sampler = CategoryBandit(20, [0] * 18 + [1] * 2)
    ids, cut = sampler.draw(400, generator()).ids, {0: (0, 18), 1: (18, 20)}
    for low, high in cut.values():
        queue = [row for row in ids.tolist() if low <= row < high]
        size = high - low
        passes = [sorted(queue[begin : begin + size]) for begin in range(0, len(queue) - size + 1, size)]
        assert len(passes) > 5
        assert all(one == list(range(low, high)) for one in passes)
    first = [queue for queue in ids.tolist() if queue < 18]
    assert first[:18] != first[18:36]


def test_one_category_is_plain_shuffling() -> None:
    sampler = CategoryBandit(5, torch.full((5,), 7))
    assert sampler.probabilities.tolist() == [1]
    assert sorted(sampler.draw(5, generator()).ids.tolist()) == list(range(5))


@pytest.mark.parametrize("signal", ["advantage", "loss", "progress"])
def test_it_goes_on_bit_for_bit_after_a_resume(signal: str) -> None:
    def said(ids: Tensor, step: int) -> dict[str, Tensor]:
        return answers(ids, step) | {"loss": ((ids * 5 + step) % 7).float()}

    drawn = go_on_alike(lambda: CategoryBandit(24, LABELS, signal=signal), signals=said)
    assert len({tuple(rows) for rows in drawn}) > 10


@pytest.mark.parametrize("signal", ["advantage", "loss", "progress"])
def test_nothing_waits_for_a_device(signal: str) -> None:
    sampler = CategoryBandit(24, LABELS, signal=signal)
    source, ids = generator(), torch.arange(8)
    signals = answers(ids, 0) | {"loss": torch.ones(8)}
    assert waits(sampler, lambda: [sampler.draw(8, source), sampler.learn(ids, signals)]) == []


def test_rewards_are_needed_attempt_by_attempt() -> None:
    sampler = CategoryBandit(24, LABELS)
    with pytest.raises(ArgumentError, match="CategoryBandit.observe must get the signals reward, got .*correct"):
        sampler.observe(at(0), {"correct": torch.ones(1)})
    for reward in (torch.ones(2), torch.ones(2, 1)):
        with pytest.raises(ArgumentError, match="CategoryBandit.reward must hold at least two attempts per row, got"):
            sampler.observe(at(0, 1), {"reward": reward})


def test_the_temperature_may_move() -> None:
    sampler = CategoryBandit(24, LABELS, temperature=Anneal(10.0, 0.01), signal="loss")
    sampler.observe(at(0), losses(1.0))
    chances = []
    for step in (0, 10):
        sampler.progress = Progress(step=step, total_steps=10)
        chances.append(float(sampler.probabilities[0]))
    assert chances == pytest.approx([1 / 3, 1], abs=0.02)


def test_metrics() -> None:
    sampler = CategoryBandit(24, LABELS, signal="loss")
    assert float(sampler.metrics()["effective_categories"]) == pytest.approx(3)
    sampler.observe(at(1), losses(1000.0))
    found = {name: float(value) for name, value in sampler.metrics().items()}
    assert found["effective_categories"] == pytest.approx(1)
    assert (found["value_logic"], found["chance_logic"], found["chance_words"]) == (500, 1, 0)
    assert set(CategoryBandit(40, list(range(40))).metrics()) == {"effective_categories"}


@pytest.mark.parametrize(
    ("labels", "settings", "told"),
    [
        ([0, 1, None, 1], {}, "CategoryBandit.categories must hold a label for every row, got None for row 2"),
        (["a", "", "b", "b"], {}, "CategoryBandit.categories must hold a label for every row, got '' for row 1"),
        (torch.tensor([0.0, NAN, 1, 1]), {}, "CategoryBandit.categories must hold .* got nan for row 1"),
        ([0, 1, 1], {}, "CategoryBandit.categories must hold one label for each of 4 rows, got 3"),
        (
            [0, 1, 1, 0],
            {"temperature": 0.0},
            "CategoryBandit.temperature must be a finite number at least 0.001, got 0",
        ),
        ([0, 1, 1, 0], {"alpha": 1.5}, r"CategoryBandit.alpha must be a finite number in \[0, 1\], got 1.5"),
        ([0, 1, 1, 0], {"absent": "drop"}, "CategoryBandit.absent must be one of keep, decay, got 'drop'"),
        (
            [0, 1, 1, 0],
            {"signal": "grad"},
            "CategoryBandit.signal must be one of advantage, loss, progress, got 'grad'",
        ),
    ],
)
def test_what_is_wrong_is_an_error(labels, settings, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        untyped(CategoryBandit, 4, labels, **settings)


@pytest.mark.parametrize("name", ["values", "means"])
def test_a_state_with_numbers_that_cannot_be_drawn_by_is_refused(name: str) -> None:
    state = CategoryBandit(4, ["a", "b", "a", "b"], signal="progress").state_dict()
    for number in (torch.inf, -torch.inf, 1e301):
        state["learnt"][name] = torch.tensor([number, 1.0], dtype=torch.float64)
        with pytest.raises(ConfigurationError, match=f"CategoryBandit: {name} of the checkpoint must be in"):
            CategoryBandit(4, ["a", "b", "a", "b"], signal="progress").load_state_dict(state)


@pytest.mark.parametrize("signal", ["loss", "progress"])
@pytest.mark.parametrize("size", [1e299, 1e300, 1.01e300, 1e308])
def test_what_was_learnt_can_be_loaded_whatever_its_size(signal: Any, size: float) -> None:
    def of() -> CategoryBandit:
        return CategoryBandit(4, ["a", "b", "a", "b"], signal=signal, alpha=0.3)

    sampler = of()
    for sign in (1.0, -1.0, 1.0, 1.0):
        sampler.observe(
            torch.tensor([0, 1, 2]), {"loss": torch.tensor([size, -size, size], dtype=torch.float64) * sign}
        )
    assert sampler.probabilities.sum() == 1
    assert bool(sampler.values.any()) == (size <= 1e300)  # larger ones are as good as infinite, and say nothing
    again = of()
    again.load_state_dict(sampler.state_dict())
    assert torch.equal(again.values, sampler.values)

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from lightning_select.app.data.arithmetic import Arithmetic
from lightning_select.app.models.warm_start import started_on_sums, warm_start
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.rollouts.tiny_policy import TinyPolicy
from lightning_select.rollouts.uniforms import attempt_keys


class Table(nn.Module):
    """A stand-in for a policy: one number per prompt, that shall become the completion."""

    def __init__(self, prompts: Sequence[str]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(len(prompts)))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.dropout = nn.Dropout(0.5)
        self.place = {prompt: number for number, prompt in enumerate(prompts)}
        self.seen: list[list[str]] = []

    def supervise(self, prompts: Sequence[str], completions: Sequence[str]) -> Tensor:
        self.seen.append(list(prompts))
        rows = torch.tensor([self.place[prompt] for prompt in prompts])
        wanted = torch.tensor([float(one) for one in completions])
        return (self.dropout(self.values)[rows] * self.frozen - wanted).square().mean()


def table(rows: int = 10) -> tuple[Table, list[str], list[str]]:
    prompts = [f"p{number}" for number in range(rows)]
    return Table(prompts), prompts, [str(number / 10) for number in range(rows)]


def test_a_policy_learns_the_pairs() -> None:
    policy, prompts, completions = table()
    loss = warm_start(policy, prompts, completions, steps=300, batch_size=4, lr=0.1)
    assert loss < 1e-4
    assert policy.values.tolist() == pytest.approx([number / 10 for number in range(10)], abs=0.02)
    assert policy.frozen.item() == 1


def test_every_pair_comes_once_in_a_pass_and_passes_differ() -> None:
    policy, prompts, completions = table()
    warm_start(policy, prompts, completions, steps=10, batch_size=4, lr=0.1)
    assert [len(batch) for batch in policy.seen] == [4] * 10
    drawn = [prompt for batch in policy.seen for prompt in batch]
    passes = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(one) == sorted(prompts) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_a_batch_larger_than_the_pairs_is_all_of_them() -> None:
    policy, prompts, completions = table(3)
    warm_start(policy, prompts, completions, steps=2, batch_size=4, lr=0.1)
    assert [sorted(batch) for batch in policy.seen] == [prompts, prompts]


def test_steps_are_those_of_adam_with_this_learning_rate_and_clipping() -> None:
    """The whole of it, by a loop over single numbers."""
    policy, prompts, completions = table(4)
    steps, lr = 40, 0.3
    warm_start(policy, prompts, completions, steps=steps, batch_size=4, lr=lr)
    value, mean, square = [0.0] * 4, [0.0] * 4, [0.0] * 4
    for step in range(steps):
        done = step / steps
        rate = lr * min(1.0, (done + 1e-3) / 0.05) * (1 + math.cos(math.pi * done)) / 2
        slopes = [2 * (value[row] - row / 10) / 4 for row in range(4)]
        norm = math.sqrt(sum(slope**2 for slope in slopes))
        for row in range(4):
            slope = slopes[row] * min(1.0, 1.0 / (norm + 1e-6))
            mean[row] = 0.9 * mean[row] + 0.1 * slope
            square[row] = 0.99 * square[row] + 0.01 * slope**2
            up, below = mean[row] / (1 - 0.9 ** (step + 1)), square[row] / (1 - 0.99 ** (step + 1))
            value[row] -= rate * up / (math.sqrt(below) + 1e-8)
    assert policy.values.tolist() == pytest.approx(value, abs=1e-4)


def test_a_steep_loss_is_clipped() -> None:
    policy, prompts, _ = table(1)
    norms = []
    policy.values.register_post_accumulate_grad_hook(lambda weight: norms.append(weight.grad.norm().item()))
    step = torch.optim.Adam.step
    clipped = []

    def spy(self: Any, *args: Any) -> Any:
        clipped.append(policy.values.grad.norm().item())
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        warm_start(policy, prompts, ["1000"], steps=2, lr=0.1)
    assert min(norms) > 100
    assert max(clipped) < 1.001


def test_the_seed_and_nothing_else_decides() -> None:
    def run(seed: int, noise: int) -> list[float]:
        torch.manual_seed(noise)
        policy, prompts, completions = table()
        policy.train()
        state = torch.get_rng_state()
        warm_start(policy, prompts, completions, steps=7, batch_size=3, lr=0.1, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return policy.values.tolist()

    assert run(0, 0) == run(0, 1) != run(1, 0)


def test_no_trace_is_left_but_the_weights() -> None:
    policy, prompts, completions = table()
    policy.train()
    policy.dropout.eval()
    warm_start(policy, prompts, completions, steps=2)
    assert (policy.training, policy.dropout.training, policy.values.grad) == (True, False, None)
    policy.place.clear()
    with pytest.raises(KeyError, match="p"):
        warm_start(policy, prompts, completions, steps=2)
    assert (policy.training, policy.dropout.training) == (True, False)


def test_no_step_changes_nothing() -> None:
    policy, prompts, completions = table()
    assert math.isnan(warm_start(policy, prompts, completions, steps=0))
    assert policy.values.tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({"prompts": []}, r"completions must be one for each of at least one prompt, got 2 for 0"),
        ({"completions": ["1"]}, r"completions must be one for each of at least one prompt, got 1 for 2"),
        ({"steps": -1}, r"warm_start\.steps must be a whole number of at least 0, got -1"),
        ({"batch_size": 0}, r"warm_start\.batch_size must be a whole number of at least 1, got 0"),
        ({"lr": 0.0}, r"warm_start\.lr must be a finite number above 0, got 0\.0"),
        ({"lr": math.nan}, r"warm_start\.lr must be a finite number above 0, got nan"),
        ({"lr": math.inf}, r"warm_start\.lr must be a finite number above 0, got inf"),
        ({"lr": "fast"}, r"warm_start\.lr must be a finite number above 0, got 'fast'"),
    ],
)
def test_arguments_are_checked(argument, told, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    policy, prompts, completions = table(2)
    arguments: dict[str, Any] = {"prompts": prompts, "completions": completions, "steps": 1} | argument
    with pytest.raises(ArgumentError, match=told):
        warm_start(policy, **arguments)


def test_a_loss_that_is_not_finite_is_told() -> None:
    policy, prompts, _ = table(2)
    with pytest.raises(ArgumentError, match=r"warm_start\.lr must keep the loss finite, got 0\.5 and a loss of inf"):
        warm_start(policy, prompts, ["1e30", "1e30"], steps=1, lr=0.5)


def test_a_policy_that_cannot_be_supervised_is_told() -> None:
    with pytest.raises(
        ConfigurationError, match=r"method supervise\(prompts, completions\) .* got Linear\. Begin with"
    ):
        warm_start(nn.Linear(1, 1), ["a"], ["b"], steps=1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_tiny_policy_starts_on_sums(one_thread) -> None:
    torch.manual_seed(0)
    data = Arithmetic(categories=["1+1", "3*3"], per_category=40, held_out=10)
    policy: Any = TinyPolicy(width=32, depth=1, heads=2, context=16)
    same = copy.deepcopy(policy)
    settings: dict[str, Any] = {"shares": {"1+1": 1.0}, "steps": 150, "batch_size": 64, "lr": 1e-2, "seed": 3}
    assert started_on_sums(policy, data, **settings) is policy
    started_on_sums(same, data, **settings)
    for one, other in zip(policy.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)
    rows = data._parts["train"]
    rates = {0: [0, 0], 1: [0, 0]}
    keys = attempt_keys(0, 0, torch.arange(len(rows)), 4)
    prompts, answers = (
        [rows[place]["prompt"] for place in range(len(rows))],
        [rows[n // 4]["answer"] for n in range(4 * len(rows))],
    )
    attempts = policy.sample(prompts, 4, keys, max_tokens=7, temperature=1.0)
    for place, (text, answer) in enumerate(zip(attempts.texts, answers, strict=True)):
        category = rows[place // 4]["category"]
        rates[category][0] += text == answer
        rates[category][1] += 1
    assert rates[0][0] / rates[0][1] > 0.3
    assert rates[1][0] / rates[1][1] < 0.05


@pytest.mark.parametrize("argument", [{"steps": 0}, {"batch_size": 0}])
def test_a_start_on_sums_has_steps_and_batches(argument) -> None:
    with pytest.raises(
        ArgumentError, match=rf"started_on_sums\.{next(iter(argument))} must be a whole number of at least 1"
    ):
        started_on_sums(TinyPolicy(), Arithmetic(), **argument)

from __future__ import annotations

import pytest
import torch

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.end_upsampling import EndUpsampling, end_upsampling
from lightning_select.samplers.progress import Progress
from tests.samplers.runs import generator, go_on_alike
from tests.samplers.waits import waits

DOMAINS = ["code"] * 20 + ["web"] * 180
BASE, END = {"code": 0.1, "web": 0.9}, {"code": 1.0, "web": 1.0}


def code_at(sampler: EndUpsampling, step: int, count: int = 10) -> int:
    """Rows of code in a chunk that is drawn at a step of 100."""
    sampler.progress = Progress(step=step, total_steps=100)
    return int((sampler.draw(count, generator(step)).ids < 20).sum())


def test_the_mixture_is_between_base_and_end() -> None:
    base, end = torch.tensor([0.2, 0.8]), torch.tensor([0.6, 0.4])
    for done in (0.0, 0.25, 1.0):
        slow = [(1 - done) * float(one) + done * float(two) for one, two in zip(base, end, strict=True)]
        assert end_upsampling(base, end, done=done).tolist() == pytest.approx(slow)


@pytest.mark.parametrize(("start", "switch"), [(0.85, 85), (85, 85), (0.0, 0), (1.0, 100)])
def test_the_switch_is_exact_to_the_draw(start: float, switch: int) -> None:
    sampler = EndUpsampling(200, DOMAINS, BASE, end_weights=END, start=start)
    assert [code_at(sampler, step) for step in range(100)] == [1] * switch + [5] * (100 - switch)


@pytest.mark.parametrize(("start", "ramp"), [(0.5, 0.4), (50, 40)])
def test_a_ramp_is_linear(start: float, ramp: float) -> None:
    sampler = EndUpsampling(200, DOMAINS, BASE, end_weights=END, start=start, ramp=ramp)
    found = [code_at(sampler, step, 100) for step in (0, 50, 60, 70, 80, 90, 99)]
    assert found == [10, 10, 20, 30, 40, 50, 50]


def test_a_domain_may_come_or_go_at_the_end() -> None:
    sampler = EndUpsampling(200, DOMAINS, {"code": 0, "web": 3}, end_weights={"code": 2, "web": 0}, start=3)
    assert [code_at(sampler, step, 7) for step in range(6)] == [0, 0, 0, 7, 7, 7]


def test_rows_of_a_domain_come_again_only_when_all_have_come() -> None:
    sampler = EndUpsampling(200, DOMAINS, BASE, end_weights=END, start=10)
    code: list[int] = []
    for step in range(40):
        sampler.progress = Progress(step=step)
        code += [row for row in sampler.draw(10, generator(step)).ids.tolist() if row < 20]
    assert len(code) == 10 + 30 * 5
    for start in range(0, 160, 20):
        assert sorted(code[start : start + 20]) == list(range(20))
    told = sampler.metrics()
    assert told["done"] == 1
    assert told["passes/code"] == 8
    assert float(told["passes/web"]) == pytest.approx((90 + 150) / 180)


def test_a_fraction_needs_the_length_of_training() -> None:
    sampler = EndUpsampling(200, DOMAINS, BASE, end_weights=END)
    with pytest.raises(ConfigurationError, match="Schedule.start must be a step while the length .* is unknown"):
        sampler.draw(4, generator())
    ramp = EndUpsampling(200, DOMAINS, BASE, end_weights=END, ramp=0.1)
    with pytest.raises(ConfigurationError, match="Anneal.start must be a step while the length .* is unknown"):
        ramp.draw(4, generator())


def test_a_chunk_may_be_larger_than_the_dataset() -> None:
    sampler = EndUpsampling(4, ["a", "a", "a", "b"], {"a": 1, "b": 1}, end_weights={"a": 1, "b": 1}, start=1)
    assert torch.bincount(sampler.draw(60, generator()).ids).tolist() == [10, 10, 10, 30]


@pytest.mark.parametrize("before", [1, 5, 12])
def test_a_resumed_run_goes_on_bit_for_bit(before: int) -> None:
    def make() -> EndUpsampling:
        sampler = EndUpsampling(200, DOMAINS, BASE, end_weights=END, start=0, ramp=50)
        sampler.progress = Progress(step=20)
        return sampler

    go_on_alike(make, size=7, before=before)


def test_nothing_waits_for_a_device() -> None:
    sampler, source = EndUpsampling(200, DOMAINS, BASE, end_weights=END, start=0, ramp=5), generator()
    assert waits(sampler, lambda: [sampler.draw(16, source), sampler.metrics()]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 1.5}, r"Schedule.start must be in \[0, 1\] as a fraction of training, got 1.5."),
        ({"start": 0.5, "ramp": 3}, r"EndUpsampling.ramp must be 0 or, like start \(0.5\), .*, got 3."),
        ({"start": 5, "ramp": 0.5}, r"EndUpsampling.ramp must be 0 or, like start \(5\), .*, got 0.5."),
        ({"start": 5, "ramp": -1}, "EndUpsampling.ramp must be 0 or, .*, got -1."),
        ({"start": 0.9, "ramp": 0.2}, "EndUpsampling.ramp must end by the end of training, got 0.2 after 0.9."),
        ({"end_weights": {"code": 1}}, "EndUpsampling.end_weights must give a share to every group, .* 'web'."),
        ({"weights": {"code": 1, "book": 1}}, "EndUpsampling.weights must name groups of the dataset .*, got 'book'."),
        ({"domains": ["code"]}, "EndUpsampling.domains must hold one label for each of 200 rows, got 1."),
    ],
)
def test_bad_input(arguments, message: str) -> None:
    given = {"domains": DOMAINS, "weights": BASE, "end_weights": END} | arguments
    with pytest.raises(ArgumentError, match=message):
        EndUpsampling(200, given.pop("domains"), given.pop("weights"), **given)

"""The draw where waiting can be seen; run with ``pytest -m gpu`` on a machine that has a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lightning_select.samplers.draw import WeightedDraw

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

BOTH = pytest.mark.parametrize("replacement", [True, False])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cuda").manual_seed(seed)


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Whoever waits between the two calls of the test raises."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("rows", [35, 100_000, 100_000_000])
def test_nothing_waits(rows: int, deterministic: bool, no_waits: None) -> None:
    draws, generator = WeightedDraw(rows, device="cuda"), seeded()
    ids, weights = torch.randint(rows, (32,), device="cuda"), torch.rand(32, device="cuda")
    torch.use_deterministic_algorithms(deterministic)
    try:
        for mode in ("default", "error"):  # the first round sets up what CUDA needs
            torch.cuda.set_sync_debug_mode(mode)
            for replacement in (True, False):
                draws.draw(32, generator, replacement=replacement)
            draws.set(ids, weights)
            draws.probability(ids)
    finally:
        torch.use_deterministic_algorithms(False)


@BOTH
def test_rows_come_in_proportion_to_their_weights(replacement: bool) -> None:
    rows, generator = 1000, seeded()
    weights = torch.rand(rows, device="cuda").square() * (torch.rand(rows, device="cuda") < 0.5)
    draws = WeightedDraw(rows, device="cuda")
    draws.set_all(weights)
    if replacement:
        drawn = draws.draw(1_000_000, generator)
    else:
        drawn = torch.stack([draws.draw(2, generator, replacement=False)[0] for _ in range(20_000)])
    seen, expected = drawn.bincount(minlength=rows).double(), draws.probability(torch.arange(rows, device="cuda"))
    expected *= len(drawn)
    assert (seen[weights == 0] == 0).all()
    positive = weights > 0
    statistic = float(((seen - expected).square() / expected)[positive].sum())
    freedom = int(positive.sum()) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


@BOTH
def test_the_same_seed_draws_the_same_rows_and_a_state_moves(replacement: bool) -> None:
    first = WeightedDraw(100_000, device="cuda")
    first.set_all(torch.rand(100_000, device="cuda"))
    second = WeightedDraw(100_000)
    second.load_state_dict(first.state_dict())
    assert second.to("cuda") is second
    one, other = (draws.draw(1024, seeded(3), replacement=replacement) for draws in (first, second))
    assert torch.equal(one, other)


def test_what_is_an_error_on_the_cpu_has_a_defined_outcome() -> None:
    draws = WeightedDraw(35, fill=0.0, device="cuda")
    assert len(draws.draw(35, seeded(), replacement=False).unique()) == 35
    ids = torch.tensor([-1, 35, 3, 20, 21], device="cuda")
    draws.set(ids, torch.tensor([1.0, 1.0, 2.0, float("nan"), -1.0], device="cuda"))
    assert float(draws.total) == 2.0
    assert draws.draw(4, seeded(), replacement=False).tolist() == [3, 3, 3, 3]

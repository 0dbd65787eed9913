"""Draws against their definition: chances written out, sums of fractions, races run row by row."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError
from lightning_select.samplers import race as races
from lightning_select.samplers.draw import WeightedDraw
from tests.samplers.waits import Waits

BLOCK = 16  # of every small dataset
ROWS = 2 * BLOCK + 3
DEVICES = pytest.mark.parametrize("unchecked", [False, True], ids=["cpu", "as on a device"])
BOTH = pytest.mark.parametrize("replacement", [True, False])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of(weights: Tensor, unchecked: bool = False) -> WeightedDraw:
    """Without the checks of values, a draw on the CPU goes the way of a draw on any other device."""
    draws = WeightedDraw(len(weights))
    draws._checks = not unchecked
    draws.set_all(weights)
    return draws


def sparse(**weights: float) -> Tensor:
    """Zero but for the rows named, as in ``r3=2.0``."""
    full = torch.zeros(ROWS)
    for name, weight in weights.items():
        full[int(name[1:])] = weight
    return full


def fits(seen: Counter, chances: dict) -> bool:
    """Chi-square at one in 100,000; cells of fewer than five expected are put together."""
    assert set(seen) <= set(chances), "something was drawn that has no chance"
    draws = sum(seen.values())
    cells = [(seen[key], draws * chance) for key, chance in chances.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    small = [cell for cell in cells if cell[1] < 5]
    if small and sum(expected for _, expected in small) >= 1:
        large.append((sum(one for one, _ in small), sum(expected for _, expected in small)))
    if len(large) == 1:
        return True
    statistic = sum((one - expected) ** 2 / expected for one, expected in large)
    return bool(chi2.sf(statistic, len(large) - 1) > 1e-5)


def successive(weights: Tensor, count: int) -> dict[tuple[int, ...], float]:
    """Chance of every ordered draw without replacement: each time in proportion to what is left."""
    full = weights.double().tolist()
    positive = [row for row, weight in enumerate(full) if weight > 0]
    chances = {}
    for rows in itertools.permutations(positive, count):
        left, chance = sum(full), 1.0
        for row in rows:
            chance *= full[row] / left
            left -= full[row]
        chances[rows] = chance
    return chances


SHAPES = {
    "equal": torch.ones(ROWS),
    "skewed": torch.rand(ROWS, generator=seeded(1)).pow(4),
    "heavy rows in different blocks": torch.full((ROWS,), 0.01) + sparse(r0=1.0, r15=2.0, r16=3.0, r31=0.5, r34=4.0),
    "a block of zeros": torch.rand(ROWS, generator=seeded(3)) * (torch.arange(ROWS) // BLOCK != 1),
    "one row": sparse(r34=3.0),
    "full blocks": torch.rand(4 * BLOCK, generator=seeded(2)),
    "one row in all": torch.ones(1),
    "70 orders of magnitude": torch.logspace(-35, 35, ROWS),
}


@DEVICES
@pytest.mark.parametrize("shape", SHAPES)
def test_with_replacement_rows_come_in_proportion_to_their_weights(shape: str, unchecked: bool) -> None:
    weights = SHAPES[shape]
    draws = of(weights, unchecked)
    shares = weights.double() / weights.double().sum()
    torch.testing.assert_close(draws.probability(torch.arange(len(weights))), shares)
    drawn = Counter(draws.draw(200_000, seeded()).tolist())
    assert fits(drawn, {row: float(share) for row, share in enumerate(shares) if share > 0})


@DEVICES
@pytest.mark.parametrize("shape", ["skewed", "heavy rows in different blocks", "a block of zeros"])
def test_without_replacement_the_first_row_comes_in_proportion_to_its_weight(shape: str, unchecked: bool) -> None:
    weights, generator = SHAPES[shape], seeded()
    draws = of(weights, unchecked)
    first = Counter(int(draws.draw(4, generator, replacement=False)[0]) for _ in range(8000))
    shares = weights.double() / weights.double().sum()
    assert fits(first, {row: float(share) for row, share in enumerate(shares) if share > 0})


@pytest.mark.parametrize(
    ("weights", "count"),
    [
        (sparse(r2=1.0, r3=2.0, r5=3.0, r7=4.0, r11=10.0), 2),
        (sparse(r0=1.0, r15=2.0, r16=3.0, r31=4.0, r34=10.0), 2),
        (sparse(r0=1.0, r15=2.0, r16=3.0, r31=4.0, r34=10.0), 3),
        (sparse(r0=1.0, r1=1.0, r16=1.0, r17=1.0, r34=1.0), 5),
        (torch.cat([torch.tensor([1.0, *[0.0] * 14, 0.5 + number]) for number in range(4)]), 2),
    ],
    ids=["in one block", "across blocks", "three of them", "all of them", "more blocks than rows"],
)
def test_without_replacement_every_order_has_its_chance(weights: Tensor, count: int) -> None:
    draws, generator = of(weights), seeded()
    orders = Counter(tuple(draws.draw(count, generator, replacement=False).tolist()) for _ in range(12_000))
    assert fits(orders, successive(weights, count))


def test_the_chances_that_tests_compare_with() -> None:
    chances = successive(torch.tensor([1.0, 2.0, 3.0]), 2)
    assert chances[0, 1] == pytest.approx(1 / 6 * 2 / 5)
    assert sum(chances.values()) == pytest.approx(1)
    assert not fits(Counter({0: 5300, 1: 4700}), {0: 0.5, 1: 0.5})
    assert fits(Counter({0: 5050, 1: 4950}), {0: 0.5, 1: 0.5})


def test_with_replacement_each_row_is_where_its_random_numbers_point(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(ROWS, generator=seeded(3)).pow(6) * (torch.rand(ROWS, generator=seeded(4)) < 0.7)
    uniform = torch.rand(2, 300, generator=seeded(5), dtype=torch.float64)
    monkeypatch.setattr(races.torch, "rand", lambda *shape, **options: uniform)
    drawn = of(weights).draw(300, seeded()).tolist()

    def pointed(weights: list[Fraction], share: float) -> int:
        ends = itertools.accumulate(weights)
        return next(place for place, end in enumerate(ends) if end > Fraction(share) * sum(weights))

    full = [Fraction(weight) for weight in weights.tolist()]
    blocks = [full[start : start + BLOCK] for start in range(0, ROWS, BLOCK)]
    for row, first, second in zip(drawn, *uniform.tolist(), strict=True):
        block = pointed([sum(one, Fraction(0)) for one in blocks], first)
        assert row == block * BLOCK + pointed(blocks[block], second)


def test_without_replacement_the_smallest_keys_win(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(ROWS, generator=seeded(6)).pow(3) * (torch.rand(ROWS, generator=seeded(7)) < 0.8)
    noise: list[list[float]] = []
    make = races._exponential
    monkeypatch.setattr(races, "_exponential", lambda *given: noise.append(made := make(*given)) or made.clone())
    draws = of(weights)
    drawn = draws.draw(12, seeded(), replacement=False).tolist()
    first, inside = (one.tolist() for one in noise)
    starts = range(0, ROWS, BLOCK)
    minima = [noise / float(weights[at : at + BLOCK].double().sum()) for at, noise in zip(starts, first, strict=True)]
    # Blocks are opened in the order of their smallest keys, and inside a block the first of the race has that key.
    keys = {}
    for line, block in zip(inside, sorted(range(len(minima)), key=minima.__getitem__), strict=True):
        rows = [row for row in range(block * BLOCK, min(block * BLOCK + BLOCK, ROWS)) if weights[row] > 0]
        race = {row: line[row % BLOCK] / float(weights[row]) for row in rows}
        keys |= {row: minima[block] + time - min(race.values()) for row, time in race.items()}
    assert drawn == sorted(keys, key=keys.__getitem__)[:12]


def test_keys_rise_and_rows_of_weight_zero_are_at_infinity() -> None:
    draws = of(SHAPES["a block of zeros"])
    ids, keys = races.race(draws._opened, draws._sums, ROWS, seeded())
    assert torch.equal(keys, keys.sort().values)
    for row, key in zip(ids.tolist(), keys.tolist(), strict=True):
        assert (key == float("inf")) == (row >= ROWS or float(draws.weights[row]) == 0)


@pytest.mark.parametrize(("beyond", "row"), [(1e-12, ROWS - 1), (3e-12, 0)])
@pytest.mark.parametrize("last", [ROWS - 1, 3], ids=["of another block", "of the same block"])
def test_a_row_in_a_trillion_has_its_share(beyond: float, row: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = WeightedDraw(ROWS, fill=0.0)
    draws.set(torch.tensor([0, last]), torch.tensor([1.0, 2e-12]))
    uniform = torch.full((2, 1), 1.0, dtype=torch.float64) - beyond
    monkeypatch.setattr(races.torch, "rand", lambda *shape, **options: uniform)
    assert draws.draw(1, seeded()).tolist() == [min(row, last)]


def test_many_draws_open_few_blocks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draws, opened = WeightedDraw(ROWS), []
    opening = draws._opened
    monkeypatch.setattr(draws, "_opened", lambda blocks: opened.append(len(blocks)) or opening(blocks))
    assert draws.draw(20_000, seeded()).shape == (20_000,)
    assert opened == [races.PART, races.PART, 20_000 - 2 * races.PART]


@DEVICES
@BOTH
@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("shape", [*SHAPES, "zeros around", "denormal"])
def test_extreme_random_numbers_never_hit_a_weight_of_zero(
    shape: str, extreme: float, replacement: bool, unchecked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (SHAPES | {"zeros around": sparse(r1=1.0, r33=1e-3), "denormal": sparse(r5=1e-45, r17=1e-45)})[shape]
    real = torch.rand

    def rand(*shape: int, **options):
        return real(*shape, **options).fill_(extreme)

    monkeypatch.setattr(races.torch, "rand", rand)
    draws = of(weights, unchecked)
    drawn = draws.draw(int((weights > 0).sum()), seeded(), replacement=replacement)
    assert (weights[drawn] > 0).all()
    assert replacement or len(set(drawn.tolist())) == len(drawn)


@DEVICES
def test_rows_of_weight_zero_are_never_drawn(unchecked: bool) -> None:
    generator, rows = seeded(8), 5003
    weights = torch.logspace(-30, 30, rows)[torch.randperm(rows, generator=generator)]
    weights *= torch.rand(rows, generator=generator) < 0.1
    draws, positive = of(weights, unchecked), int((weights > 0).sum())
    assert (weights[draws.draw(1_000_000, generator)] > 0).all()
    for _ in range(20):
        drawn = draws.draw(positive, generator, replacement=False)
        assert sorted(drawn.tolist()) == weights.nonzero().flatten().tolist()
        # Over 60 orders of magnitude the heavy come first.
        assert weights[drawn[:20]].min() > 1e20


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 2.0**126, width=32) | st.just(0.0), min_size=1, max_size=70),
    st.integers(1, 75),
    st.integers(0, 10**6),
)
def test_any_weights(numbers: list[float], count: int, seed: int) -> None:
    weights = torch.tensor(numbers)
    draws, positive = WeightedDraw(len(numbers), fill=0.0), int((weights > 0).sum())
    draws.set(torch.arange(len(numbers)), weights)
    if not positive:
        with pytest.raises(ArgumentError, match="must find a positive weight, got zeros only."):
            draws.draw(count, seeded(seed))
        return
    assert (weights[draws.draw(count, seeded(seed))] > 0).all()
    if count > positive:
        with pytest.raises(ArgumentError, match=f"without replacement, got {count}."):
            draws.draw(count, seeded(seed), replacement=False)
        return
    drawn = draws.draw(count, seeded(seed), replacement=False)
    assert (weights[drawn] > 0).all()
    assert len(set(drawn.tolist())) == count


@DEVICES
def test_a_change_acts_on_the_next_draw(unchecked: bool) -> None:
    draws = of(SHAPES["skewed"], unchecked)
    draws.set(torch.arange(ROWS), torch.zeros(ROWS))
    draws.set(torch.tensor([34, 0, 17], dtype=torch.int32), torch.tensor([3.0, 1.0, 4.0], dtype=torch.bfloat16))
    assert float(draws.total) == 8.0
    assert draws.weights.nonzero().flatten().tolist() == [0, 17, 34]
    assert draws.probability(torch.tensor([17, 0, 34, 5])).tolist() == [0.5, 0.125, 0.375, 0.0]
    assert fits(Counter(draws.draw(50_000, seeded()).tolist()), {0: 1 / 8, 17: 4 / 8, 34: 3 / 8})
    draws.set(torch.tensor([17]), torch.tensor([0.0], dtype=torch.float64))
    assert fits(Counter(draws.draw(50_000, seeded()).tolist()), {0: 1 / 4, 34: 3 / 4})
    draws.set(torch.tensor([], dtype=torch.int64), torch.tensor([]))
    assert float(draws.total) == 4.0


def test_gradients_stop_at_the_weights() -> None:
    draws = WeightedDraw(ROWS)
    draws.set(torch.tensor([1]), torch.tensor([2.0], requires_grad=True))
    draws.set_all(torch.ones(ROWS, requires_grad=True))
    assert not draws.weights.requires_grad


def test_of_an_id_that_comes_twice_the_last_weight_wins_on_the_cpu() -> None:
    draws = WeightedDraw(100)
    ids = torch.randint(100, (100_000,), generator=seeded())
    weights = torch.rand(100_000, generator=seeded(1))
    draws.set(ids, weights)
    last = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    assert draws.weights.tolist() == [last[row] for row in range(100)]
    assert float(draws.total) == pytest.approx(sum(last.values()))


@pytest.mark.parametrize("rows", [ROWS, 1000, 200_000, 5_000_000])
@pytest.mark.parametrize("pieces", [1, 7, 5000])
def test_changes_in_any_order_leave_the_sums_of_a_rebuild(rows: int, pieces: int) -> None:
    generator = seeded(9)
    weights = (torch.randn(rows, generator=generator) * 20).clamp(-60, 60).exp()
    rebuilt = of(weights)
    changed = of(weights.roll(1))
    order = torch.randperm(rows, generator=generator)[:5000]
    for some in order.split(max(1, len(order) // pieces)):
        changed.set(some, weights[some])
    touched = order // rebuilt._blocks.shape[1]
    if rows <= 5000:
        assert torch.equal(changed._sums, rebuilt._sums)
    else:
        assert torch.equal(changed._sums[touched], changed._blocks[touched].sum(1, dtype=torch.float64))
    changed.set_all(weights)
    assert torch.equal(changed._sums, rebuilt._sums)


def test_a_hundred_thousand_changes_leave_no_error_behind() -> None:
    draws, generator = WeightedDraw(200), seeded(10)
    for _ in range(1000):
        ids = torch.randint(200, (100,), generator=generator)
        draws.set(ids, (torch.randn(200, generator=generator) * 20).clamp(max=60).exp()[ids])
    draws.set(torch.arange(200), torch.full((200,), 0.1))
    assert float(draws.total) == float(torch.full((200,), 0.1).double().sum())


def test_beyond_two_to_the_24() -> None:
    rows = 50_000_000
    draws, cells = WeightedDraw(rows), 20
    assert float(draws.total) == rows
    for replacement in (True, False):
        drawn = draws.draw(100_000, seeded(), replacement=replacement)
        assert int((drawn > 2**24).sum()) > 60_000
        assert int((drawn % 2).sum()) == pytest.approx(50_000, abs=800)
        seen = Counter((drawn * cells // rows).tolist())
        assert fits(seen, dict.fromkeys(range(cells), 1 / cells))
        assert replacement or len(drawn.unique()) == 100_000
    last = torch.tensor([rows - 1, 2**24 + 1])
    draws.set(last, torch.tensor([3e9, 1e9]))
    assert draws.probability(last).tolist() == pytest.approx([3 / 4.05, 1 / 4.05])
    assert sorted(draws.draw(2, seeded(), replacement=False).tolist()) == sorted(last.tolist())


@BOTH
def test_the_same_seed_draws_the_same_rows(replacement: bool) -> None:
    draws = of(SHAPES["full blocks"])
    once, again, other = (
        [draws.draw(40, generator, replacement=replacement).tolist() for _ in range(3)]
        for generator in (seeded(1), seeded(1), seeded(2))
    )
    assert once == again != other
    assert once[0] != once[1]
    state = torch.get_rng_state()
    draws.draw(40, seeded(), replacement=replacement)
    assert torch.equal(state, torch.get_rng_state())


@BOTH
@pytest.mark.parametrize("rows", [1, BLOCK, ROWS, 5000])
def test_a_resumed_draw_goes_on_bit_for_bit(rows: int, replacement: bool) -> None:
    straight = of((torch.randn(rows, generator=seeded()) * 9).exp())
    straight.set(torch.tensor([rows - 1]), torch.tensor([0.3]))
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    resumed = WeightedDraw(rows, fill=7.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed.weights, straight.weights)
    assert float(resumed.total) == float(straight.total)
    generators = seeded(4), seeded(4)
    for _ in range(3):
        one, other = (
            draws.draw(min(rows, 20), generator, replacement=replacement)
            for draws, generator in zip((straight, resumed), generators, strict=True)
        )
        assert torch.equal(one, other)
        for draws in (straight, resumed):
            draws.set(one, one / rows + 0.1)


def test_a_state_is_a_copy_and_so_is_a_copy() -> None:
    draws = WeightedDraw(ROWS)
    state, copied, pickled = draws.state_dict(), copy.deepcopy(draws), pickle.loads(pickle.dumps(draws))
    draws.set(torch.tensor([0]), torch.tensor([100.0]))
    assert float(state["weights"].sum()) == float(state["block_sums"].sum()) == ROWS
    assert float(copied.total) == float(pickled.total) == ROWS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", torch.full((ROWS,), 0.001)),
        ("weights", torch.full((ROWS,), 1e300, dtype=torch.float64)),
        ("weights", torch.ones(ROWS) + torch.eye(ROWS)[7]),
        ("block_sums", torch.tensor([16.0, 16.0, 3.001], dtype=torch.float64)),
        ("block_sums", torch.tensor([35.0], dtype=torch.float64)),
    ],
    ids=["others", "too large", "one other", "a sum", "one sum"],
)
def test_weights_that_are_not_those_of_the_sums_are_refused(name: str, value: Tensor) -> None:
    """Rows were drawn beyond the end of the dataset, where the blocks have room that no row fills."""
    draws = of(torch.arange(ROWS, dtype=torch.float32))
    before = draws.state_dict()
    with pytest.raises(ConfigurationError, match=r"WeightedDraw: .* of the checkpoint must"):
        draws.load_state_dict({**WeightedDraw(ROWS).state_dict(), name: value})
    assert all(torch.equal(draws.state_dict()[one], before[one]) for one in before)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_kind_of_number_are_taken_over(kind: torch.dtype) -> None:
    weights = (torch.arange(ROWS) % 4).float()
    state = of(weights).state_dict()
    draws = WeightedDraw(ROWS)
    draws.load_state_dict({"weights": state["weights"].to(kind), "block_sums": state["block_sums"].to(kind)})
    assert torch.equal(draws.weights, weights)
    assert draws.total == weights.sum()
    draws.set(torch.tensor([ROWS - 1]), torch.tensor([5.0]))
    assert draws.total == weights.sum() - weights[-1] + 5


def test_a_state_is_not_written_to() -> None:
    state = WeightedDraw(ROWS).state_dict()
    draws = WeightedDraw(ROWS)
    draws.load_state_dict(state)
    draws.set_all(torch.full((ROWS,), 2.0))
    draws.set(torch.tensor([0]), torch.tensor([7.0]))
    assert state["weights"].tolist() == [1.0] * ROWS
    assert state["block_sums"].tolist() == [16.0, 16.0, 3.0]


def test_a_state_of_another_dataset_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"WeightedDraw.weights must have the length of the dataset \(35\), got 34\."
    ):
        WeightedDraw(ROWS).load_state_dict(WeightedDraw(ROWS - 1).state_dict())


def test_moving_returns_the_same_object() -> None:
    draws = WeightedDraw(ROWS)
    assert draws.to("cpu") is draws
    assert draws.device == torch.device("cpu")
    moved = WeightedDraw(ROWS).to("meta")
    assert moved.device == torch.device("meta")
    assert not moved._checks


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), float("-inf"), 1e39])
@pytest.mark.parametrize("every", [False, True])
def test_what_is_no_weight_is_refused_and_nothing_changes(bad: float, every: bool) -> None:
    draws = WeightedDraw(ROWS)
    given = torch.ones(ROWS, dtype=torch.float64)
    given[4] = bad
    got = float(torch.tensor(bad, dtype=torch.float32))
    with pytest.raises(ArgumentError, match=rf"WeightedDraw.weights must be finite and not negative, got {got}\."):
        draws.set_all(given) if every else draws.set(torch.arange(ROWS), given)
    assert draws.weights.tolist() == [1.0] * ROWS


@pytest.mark.parametrize("bad", [-1, ROWS, 10**12])
def test_an_id_outside_the_dataset_is_refused(bad: int) -> None:
    draws = WeightedDraw(ROWS)
    ids = torch.tensor([3, bad])
    for call in (lambda: draws.set(ids, torch.ones(2)), lambda: draws.probability(ids)):
        with pytest.raises(RowIdError, match=rf"WeightedDraw.ids must be in \[0, 35\), got {bad}\."):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WeightedDraw(0), "WeightedDraw.rows must be at least 1, got 0."),
        (lambda: WeightedDraw(3, fill=-1.0), "WeightedDraw.fill must be finite in float32 and not negative, got -1.0."),
        (lambda: WeightedDraw(3, fill=1e39), "got 1e.39."),
        (lambda: WeightedDraw(3, fill=float("nan")), "got nan."),
        (lambda: WeightedDraw(3).set_all(torch.ones(4)), r"one weight per row \(3\), got 4."),
        (lambda: WeightedDraw(3).set_all(torch.zeros(3)), "must hold a positive weight, got zeros only."),
        (lambda: WeightedDraw(3, fill=0.0).draw(1, seeded()), "must find a positive weight, got zeros only."),
        (lambda: WeightedDraw(3).draw(0, seeded()), "at least 1 row, got 0."),
        (
            lambda: WeightedDraw(3).draw(4, seeded(), replacement=False),
            "at most all 3 rows without replacement, got 4.",
        ),
        (
            lambda: of(sparse(r1=1.0, r20=1.0)).draw(3, seeded(), replacement=False),
            "at most the 2 rows of positive weight without replacement, got 3.",
        ),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_there_is_one_weight_per_id() -> None:
    # Where annotations are checked they speak first.
    with pytest.raises(Exception, match=r"must get one weight per id \(3\), got 2\.|[Tt]ype-check"):
        WeightedDraw(3).set(torch.arange(3), torch.ones(2))


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), float("-inf"), 1e39])
def test_on_a_device_what_is_no_weight_counts_as_zero(bad: float) -> None:
    given = torch.ones(ROWS, dtype=torch.float64)
    given[4] = bad
    every = of(given, unchecked=True)
    some = of(torch.ones(ROWS), unchecked=True)
    some.set(torch.arange(ROWS), given)
    for draws in (every, some):
        assert draws.weights.tolist() == [float(row != 4) for row in range(ROWS)]
        assert float(draws.total) == ROWS - 1


@pytest.mark.parametrize("rows", [ROWS, 2 * BLOCK])
def test_on_a_device_an_id_outside_the_dataset_is_passed_over(rows: int) -> None:
    draws = of(torch.ones(rows), unchecked=True)
    ids = torch.tensor([-1, rows, 2, 10**12])
    draws.set(ids, torch.full((4,), 9.0))
    assert draws.weights.tolist() == [9.0 if row == 2 else 1.0 for row in range(rows)]
    assert float(draws.total) == float(draws._sums.sum()) == rows + 8
    assert draws.probability(ids).tolist() == pytest.approx([0, 0, 9 / (rows + 8), 0])
    assert draws.draw(100_000, seeded()).max() < rows
    draws.set_all(torch.zeros(rows))
    assert draws.probability(ids).tolist() == pytest.approx([0, 0, 1 / rows, 0])


@BOTH
@pytest.mark.parametrize("rows", [1, ROWS, 2 * BLOCK])
def test_on_a_device_all_rows_count_the_same_where_all_weights_are_zero(rows: int, replacement: bool) -> None:
    draws, generator = of(torch.zeros(rows), unchecked=True), seeded()
    if replacement:
        drawn = draws.draw(100_000, generator)
    else:
        assert sorted(draws.draw(rows, generator, replacement=False).tolist()) == list(range(rows))
        count = min(rows, 2)
        drawn = torch.cat([draws.draw(count, generator, replacement=False) for _ in range(4000)])
    assert fits(Counter(drawn.tolist()), dict.fromkeys(range(rows), 1 / rows))


def test_on_a_device_rows_of_positive_weight_are_repeated_where_they_are_too_few() -> None:
    draws = of(sparse(r1=1.0, r20=2.0, r34=1e-20), unchecked=True)
    drawn = draws.draw(8, seeded(), replacement=False).tolist()
    assert drawn[:3] in ([1, 20, 34], [20, 1, 34])
    assert drawn == (drawn[:3] * 3)[:8]


def test_on_a_device_nothing_waits() -> None:
    draws = of(SHAPES["a block of zeros"], unchecked=True)
    ids, generator = torch.tensor([3, 30, 3, -1]), seeded()
    with Waits() as mode:
        for replacement in (True, False):
            draws.draw(8, generator, replacement=replacement)
        draws.set(ids, torch.ones(4))
        draws.set_all(torch.ones(ROWS))
        draws.probability(ids)
        assert draws.total.dim() == 0
    assert mode.seen == []
    with Waits() as mode:
        WeightedDraw(ROWS).draw(8, generator)
    assert "aten._local_scalar_dense.default" in mode.seen or "aten.is_nonzero.default" in mode.seen


@BOTH
@pytest.mark.parametrize("rows", [1, ROWS, 100_000])
def test_a_draw_needs_no_value_on_the_host(rows: int, replacement: bool) -> None:
    # Tensors of the meta device have no values: to read one, or to copy one to the host, is an error.
    draws, count = WeightedDraw(rows, device="meta"), min(rows, 12)
    drawn = draws.draw(count, seeded(), replacement=replacement)
    assert drawn.shape == (count,)
    assert drawn.dtype == torch.int64
    draws.set(drawn, torch.ones(count, device="meta"))
    draws.set_all(torch.ones(rows, device="meta"))
    assert draws.probability(drawn).dtype == torch.float64
    assert draws.weights.shape == (rows,)


def test_memory_is_what_the_class_says() -> None:
    for rows, most in ((10**5, 4.6), (10**7, 4.2), (10**8, 4.1)):
        draws = WeightedDraw(rows, device="meta")
        held = sum(one.numel() * one.element_size() for one in (draws._blocks, draws._sums))
        assert held / rows < most

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError
from lightning_select.history import SampleHistory
from lightning_select.visits import fitting
from tests.samplers.waits import Waits

ALL = ("loss", "success", "forgetting")
NAMES = {
    "loss": ("last_loss", "ema_loss"),
    "success": ("successes", "failures"),
    "forgetting": ("forgettings", "last_correct"),
}
ROWS = 5
NAN = math.nan
Visit = dict[str, Any]


class Eager:
    """The definitions, row by row in plain Python: everything fades in every step, and nothing is put off."""

    def __init__(self, decay: float, forget: float) -> None:
        self.decay, self.forget, self.rows = decay, forget, {}

    def row(self, key: int) -> Visit:
        new = {"count": 0, "last_step": -1, "last_loss": NAN, "ema_loss": NAN, "successes": 0.0, "failures": 0.0}
        return self.rows.setdefault(key, {**new, "forgettings": 0, "last_correct": -1})

    def step(self, step: int, visits: list[Visit]) -> None:
        """One step; ``visits`` hold id, loss, successes, failures, correct and keep."""
        groups: dict[int, list[Visit]] = {}
        for visit in visits:
            if visit["id"] != -1:
                groups.setdefault(visit["id"], []).append(visit)
        for key, row in self.rows.items():
            if key not in groups:
                row["successes"] *= self.forget
                row["failures"] *= self.forget
        for key, group in groups.items():
            row = self.row(key)
            row["count"] += len(group)
            row["last_step"] = step
            keep = sum(visit["keep"] for visit in group) / len(group)
            for name in ("successes", "failures"):
                row[name] = row[name] * keep + sum(visit[name] for visit in group)
            losses = [visit["loss"] for visit in group if math.isfinite(visit["loss"])]
            if losses:
                loss = sum(losses) / len(losses)
                old = row["ema_loss"]
                row["last_loss"] = loss
                row["ema_loss"] = loss if math.isnan(old) else self.decay * old + (1 - self.decay) * loss
            answers = [visit["correct"] for visit in group if not math.isnan(visit["correct"])]
            if answers:
                right = sum(answers) / len(answers) > 0.5
                row["forgettings"] += row["last_correct"] == 1 and not right
                row["last_correct"] = int(right)


def enter(history: Any, step: int, visits: list[Visit]) -> None:
    """The same step for a history."""
    column = {name: [visit[name] for visit in visits] for name in visits[0]} if visits else {}
    doubles = ("successes", "failures", "correct", "keep")
    history.update(
        torch.tensor(column.get("id", []), dtype=torch.int64),
        step,
        loss=torch.tensor(column.get("loss", []), dtype=torch.float32),
        **{name: torch.tensor(column.get(name, []), dtype=torch.float64) for name in doubles},
    )


def sightless(history: Any) -> Any:
    """Let a history on the CPU work as on a device, where no value may be looked at."""
    history._looks = False
    return history


def visit_lists(ids: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[Visit]]]:
    share = st.sampled_from([0.0, 0.25, 1.0, 3.0, 8.0])
    visit = st.fixed_dictionaries(
        {
            "id": ids,
            "loss": st.sampled_from([0.0, 0.5, 1.5, -3.0, 7.25, NAN, math.inf, -math.inf]),
            "successes": share,
            "failures": share,
            "correct": st.sampled_from([0.0, 1.0, 0.75, NAN]),
            "keep": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        }
    )
    return st.lists(st.lists(visit, max_size=6), max_size=8)


def close(one: float, other: float, rel: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=rel, abs_tol=rel)


def same_bits(one: Any, other: Any) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) for (name, a), (again, b) in pairs)


@pytest.mark.parametrize("look", [True, False])
@given(steps=visit_lists(st.integers(-1, ROWS - 1)))
def test_it_is_the_loop_over_all_rows(look: bool, steps: list[list[Visit]]) -> None:
    eager = Eager(decay=0.75, forget=0.9)
    history = SampleHistory(ROWS, columns=ALL, decay=0.75, forget=0.9)
    history = history if look else sightless(history)
    everyone = torch.arange(ROWS)
    for step, visits in enumerate(steps):
        eager.step(step, visits)
        enter(history, step, visits)
        read = {name: history.read(name, everyone).tolist() for name in eager.row(0)}
        successes, failures = (part.tolist() for part in history.beta(everyone, step + 1))
        for row in range(ROWS):
            expected = eager.row(row)
            for name in ("count", "last_step", "last_correct", "forgettings"):
                assert read[name][row] == expected[name], name
            for name in ("last_loss", "ema_loss"):
                assert close(read[name][row], expected[name], 1e-6), name
            assert close(successes[row], expected["successes"], 1e-12)
            assert close(failures[row], expected["failures"], 1e-12)


@pytest.mark.parametrize("look", [True, False])
@given(steps=visit_lists(st.integers(-1, ROWS - 1)), data=st.data())
def test_the_order_of_the_rows_does_not_matter(look: bool, steps: list[list[Visit]], data: Any) -> None:
    one, other = (SampleHistory(ROWS, columns=ALL, forget=0.9) for _ in range(2))
    for step, visits in enumerate(steps):
        enter(one, step, visits)
        enter(other if look else sightless(other), step, data.draw(st.permutations(visits)))
    assert same_bits(one, other)


def test_the_order_does_not_matter_for_losses_of_any_digits() -> None:
    ids, losses = torch.randint(0, 40, (500,)), torch.rand(500) * 10
    one, other = SampleHistory(40), SampleHistory(40)
    for step in range(5):
        order = torch.randperm(500)
        one.update(ids, step, loss=losses)
        other.update(ids[order], step, loss=losses[order])
    assert same_bits(one, other)


@pytest.mark.parametrize("twins", [True, False])
def test_it_ends_in_the_same_bits_whether_values_are_looked_at_or_not(twins: bool) -> None:
    plain, blind = (SampleHistory(100, columns=ALL, forget=0.99) for _ in range(2))
    sightless(blind)
    for step in range(10):
        ids = torch.randint(-1, 100, (30,)) if twins else torch.randperm(100)[:30]
        tries = torch.rand(30, dtype=torch.float64)
        kwargs = {"loss": torch.randn(30), "successes": tries, "failures": 1 - tries, "correct": tries > 0.4}
        for history in (plain, blind):
            history.update(ids, step, keep=0.2, **kwargs)
    assert same_bits(plain, blind)


def test_the_figure_of_vade() -> None:
    history = SampleHistory(3, columns=("success",), forget=0.999)
    before = torch.tensor([[0.1, 8.4], [2.7, 5.3], [9.0, 0.2]], dtype=torch.float64)
    history.update(torch.arange(3), 0, successes=before[:, 0], failures=before[:, 1])
    history.update(torch.tensor([0, 1]), 1, successes=torch.tensor([1, 4]), failures=torch.tensor([7, 4]), keep=0.2)
    successes, failures = history.beta(torch.arange(3), 2)
    torch.testing.assert_close(successes.tolist(), [1.02, 4.54, 8.991], rtol=1e-12, atol=0)
    torch.testing.assert_close(failures.tolist(), [8.68, 5.06, 0.1998], rtol=1e-12, atol=0)


def test_counts_fade_over_a_thousand_steps_as_if_every_step_had_been_done() -> None:
    history = SampleHistory(2, columns=ALL, forget=0.999)
    expected = [0.0, 0.0]
    for step in range(1000):
        tried = step in (3, 500)
        expected = [(old * 0.2 + 3.0) if tried else old * 0.999 for old in expected]
        if tried:
            history.update(
                torch.tensor([0, 1]), step, successes=torch.tensor([3, 3]), failures=torch.zeros(2), keep=0.2
            )
        elif step == 700:  # seen for its loss only: not tried, so it fades
            history.update(torch.tensor([0]), step, loss=torch.ones(1))
    torch.testing.assert_close(history.beta(torch.tensor([0, 1]), 1000)[0].tolist(), expected, rtol=1e-12, atol=0)


def test_two_updates_of_one_step_have_no_step_between_them() -> None:
    history = SampleHistory(1, columns=("success",), forget=0.5)
    for _ in range(2):
        history.update(torch.tensor([0]), 4, successes=torch.ones(1), failures=torch.zeros(1))
    assert history.successes.tolist() == [2.0]
    assert [history.beta(torch.tensor([0]), step)[0].item() for step in (4, 5, 6)] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_forgetting_events(dtype: torch.dtype) -> None:
    history = SampleHistory(1, columns=("forgetting",))
    counted = []
    for step, right in enumerate([1, 0, 1, 1, 0, 0, 1]):
        history.update(torch.tensor([0]), step, correct=torch.tensor([right]).to(dtype))
        counted.append(int(history.forgettings))
    assert counted == [0, 1, 1, 1, 2, 2, 2]


def test_the_first_visit_is_no_forgetting_and_half_right_is_wrong() -> None:
    history = SampleHistory(2, columns=("forgetting",))
    history.update(torch.tensor([0, 1, 1]), 0, correct=torch.tensor([0.0, 1.0, 1.0]))
    assert history.forgettings.tolist() == [0, 0]
    history.update(torch.tensor([1, 1]), 1, correct=torch.tensor([1.0, 0.0]))
    assert history.forgettings.tolist() == [0, 1]


def test_forgettings_stop_at_what_they_can_hold() -> None:
    history = SampleHistory(1, columns=("forgetting",))
    history.forgettings.fill_(32766)
    for step, right in enumerate([1.0, 0.0, 1.0, 0.0]):
        history.update(torch.tensor([0]), step, correct=torch.tensor([right]))
    assert history.forgettings.tolist() == [32767]


def test_rows_never_seen_are_marked_and_not_zero() -> None:
    history = SampleHistory(3, columns=ALL)
    history.update(torch.tensor([1]), 7, loss=torch.tensor([0.0]))
    assert history.seen.tolist() == [False, True, False]
    assert history.last_step.tolist() == [-1, 7, -1]
    for values in (history.last_loss, history.ema_loss):
        assert values.isnan().tolist() == [True, False, True]
    assert history.last_correct.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("look", [True, False])
def test_a_row_whose_first_loss_is_not_finite_starts_with_the_next(look: bool) -> None:
    history = SampleHistory(2) if look else sightless(SampleHistory(2))
    for step, loss in enumerate([NAN, 4.0, math.inf, 2.0]):
        history.update(torch.tensor([0, 1]), step, loss=torch.tensor([loss, 1.0]))
    assert history.count.tolist() == [4, 4]
    torch.testing.assert_close(history.ema_loss, torch.tensor([3.8, 1.0]))
    assert history.last_loss.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("look", [True, False])
def test_padding_is_ignored_and_reads_as_never_seen(look: bool) -> None:
    history = SampleHistory(3, columns=ALL) if look else sightless(SampleHistory(3, columns=ALL))
    padded, nothing = torch.tensor([2, -1, -1]), torch.tensor([1.0, NAN, NAN])
    history.update(padded, 5, loss=nothing, successes=nothing, failures=nothing, correct=nothing, keep=nothing)
    assert history.count.tolist() == [0, 0, 1]
    assert history.read("count", padded).tolist() == [1, 0, 0]
    assert history.read("last_step", padded).tolist() == [5, -1, -1]
    assert history.read("ema_loss", padded).isnan().tolist() == [False, True, True]
    assert [part.tolist() for part in history.beta(padded, 9)] == [[1.0, 0.0, 0.0]] * 2


def test_nothing_but_padding_and_nothing_at_all() -> None:
    history = SampleHistory(2)
    history.update(torch.tensor([-1]), 0, loss=torch.ones(1))
    history.update(torch.empty(0, dtype=torch.int64), 0, loss=torch.empty(0))
    assert not history.seen.any()


def test_what_a_device_does_with_values_that_the_cpu_refuses() -> None:
    history = sightless(SampleHistory(2, columns=ALL))
    history.update(torch.tensor([0, 1]), 0, successes=torch.ones(2), failures=torch.ones(2))
    bad = torch.tensor([NAN, -1.0, 9.0, 2.0])
    history.update(torch.tensor([0, 1, 2, -5]), 1, loss=bad, successes=bad, failures=bad.neg(), keep=bad)
    assert history.count.tolist() == [2, 2]
    assert history.last_loss.isnan().tolist() == [True, False]
    assert history.successes.tolist() == [1.0, 1.0]
    assert history.failures.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_ids_of_any_whole_type(dtype: torch.dtype) -> None:
    history = SampleHistory(4)
    history.update(torch.tensor([3, 0], dtype=dtype), 0, loss=torch.ones(2))
    assert history.seen.tolist() == [True, False, False, True]


@pytest.mark.parametrize("look", [True, False])
def test_ids_keep_all_their_digits(look: bool) -> None:
    rows = 2**24 + 3
    history = SampleHistory(rows, columns=()) if look else sightless(SampleHistory(rows, columns=()))
    ids = torch.tensor([2049, 2**24 + 1, 2**24 + 2, 2**24 + 1, 257])
    history.update(ids, 0)
    assert history.seen.nonzero()[:, 0].tolist() == [257, 2049, 2**24 + 1, 2**24 + 2]
    assert history.read("count", ids).tolist() == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_losses_of_any_float_and_with_a_gradient(dtype: torch.dtype) -> None:
    history = SampleHistory(2)
    losses = torch.tensor([0.5, 1.5], dtype=dtype, requires_grad=True)
    history.update(torch.tensor([0, 1]), 0, loss=losses)
    assert history.last_loss.dtype == torch.float32
    assert history.last_loss.tolist() == [0.5, 1.5]
    assert not history.last_loss.requires_grad


@pytest.mark.parametrize("columns", [(), ("loss",), ("success",), ("forgetting",), ALL])
def test_it_takes_the_memory_that_it_says(columns: tuple[str, ...]) -> None:
    history = SampleHistory(1000, columns=columns)
    per_row = 8 + sum({"loss": 8, "success": 16, "forgetting": 3}[group] for group in columns)
    assert history.nbytes == 1000 * per_row
    assert {name for group in columns for name in NAMES[group]} | {"count", "last_step"} == set(history.state_dict())


def test_what_the_docstring_says_of_1e8_rows() -> None:
    told = " ".join(str(SampleHistory.__doc__).split())
    for columns, size in {("loss",): "1.6", ("success",): "2.4", ("forgetting",): "1.1", ALL: "3.5"}.items():
        assert f"{SampleHistory(10, columns=columns).nbytes / 100:.1f}" == size
        assert f"{size} GB" in told


def test_it_is_copied_pickled_and_cleared() -> None:
    history = SampleHistory(3, columns=ALL)
    history.update(torch.tensor([0, 2]), 1, loss=torch.ones(2), correct=torch.ones(2))
    for twin in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert same_bits(twin, history)
    history.clear(torch.tensor([0, -1]))
    assert history.seen.tolist() == [False, False, True]
    history.clear(torch.tensor([2]))
    assert same_bits(history, SampleHistory(3, columns=ALL))


def test_it_resumes_bit_for_bit() -> None:
    steps = [(torch.randint(0, 50, (20,)), torch.rand(20), torch.rand(20, dtype=torch.float64)) for _ in range(10)]

    def go(history: SampleHistory, begin: int, end: int) -> SampleHistory:
        for step in range(begin, end):
            ids, loss, share = steps[step]
            history.update(ids, step, loss=loss, successes=share, failures=1 - share, correct=share, keep=share)
        return history

    half = go(SampleHistory(50, columns=ALL, forget=0.99), 0, 5)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = SampleHistory(50, columns=ALL, forget=0.99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same_bits(go(half, 5, 10), go(resumed, 5, 10))


def test_a_state_does_not_change_when_training_goes_on() -> None:
    history = SampleHistory(2)
    state = history.state_dict()
    history.update(torch.tensor([0]), 0, loss=torch.ones(1))
    assert state["count"].tolist() == [0, 0]
    other = SampleHistory(2)
    other.load_state_dict(history.state_dict())
    other.update(torch.tensor([0]), 1, loss=torch.zeros(1))
    assert history.count.tolist() == [1, 0]


def test_it_moves_to_another_device() -> None:
    history = SampleHistory(3, columns=ALL)
    history.update(torch.tensor([0]), 0, loss=torch.ones(1))
    kept = {name: value.dtype for name, value in history.state_dict().items()}
    assert history.to("cpu") is history
    assert history.seen.tolist() == [True, False, False]
    history.to("meta")
    assert history.device.type == "meta"
    history.update(torch.tensor([0]), 1, loss=torch.ones(1))  # would fail if it looked at a value
    assert {name: value.dtype for name, value in history.state_dict().items()} == kept
    assert fitting(torch.float64, "mps") == torch.float32
    assert fitting(torch.float64, None) == torch.float64


@pytest.mark.parametrize("columns", [(), ALL])
def test_a_device_that_holds_no_values_will_do(columns: tuple[str, ...]) -> None:
    history = SampleHistory(3, columns=columns, forget=0.9, device="meta")
    share = torch.rand(4, device="meta")
    every = {"loss": share, "successes": share, "failures": share, "correct": share, "keep": share}
    history.update(torch.tensor([0, 1, 1, -1]), 0, **(every if columns else {}))
    assert history.seen.shape == (3,)


def test_no_wait_for_a_device() -> None:
    history = sightless(SampleHistory(10, columns=ALL, forget=0.9))
    ids, share = torch.tensor([3, 1, 3, -1, 12]), torch.rand(5)
    with Waits() as watch:
        for step in range(3):
            history.update(ids, step, loss=share, successes=share, failures=share, correct=share, keep=share)
            history.update(ids, step, loss=share, keep=0.5)
            history.beta(ids, step)
            history.read("ema_loss", ids)
            assert history.seen.shape == (10,)
        history.clear(ids)
    assert watch.seen == []


def test_the_watcher_sees_what_the_cpu_looks_at() -> None:
    with Waits() as watch:
        SampleHistory(10).update(torch.tensor([3]), 0, loss=torch.ones(1))
    assert "aten._local_scalar_dense.default" in watch.seen


WRONG = [
    ({"rows": 0}, "SampleHistory.rows must be a whole number, at least 1, got 0."),
    ({"rows": True}, "SampleHistory.rows must be a whole number, at least 1, got True."),
    ({"columns": ("los",)}, r"SampleHistory.columns must be some of loss, success, forgetting, got \('los',\)."),
    ({"columns": "loss"}, "SampleHistory.columns must be some of loss, success, forgetting, got 'loss'."),
    ({"decay": 1.0}, r"SampleHistory.decay must be in \[0, 1\), got 1.0."),
    ({"decay": NAN}, r"SampleHistory.decay must be in \[0, 1\), got nan."),
    ({"forget": 1.1}, r"SampleHistory.forget must be in \[0, 1\], got 1.1."),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SampleHistory(**{"rows": 3, **arguments})


TWO = torch.ones(2)
CALLS = [
    ({"loss": torch.ones(3)}, ArgumentError, r"must be given loss of shape \(2,\), one per id, got \(3,\)."),
    ({"loss": torch.ones(2, 2)}, ArgumentError, r"must be given loss of shape \(2,\), one per id, got \(2, 2\)."),
    ({"ids": TWO, "loss": TWO}, RowIdError, r"must be a list of whole numbers, got torch.float32 of shape \(2,\)."),
    ({"ids": [0, 1]}, RowIdError, r"SampleHistory.ids must be a tensor, got list. Write torch.tensor"),
    ({"ids": torch.tensor(1)}, RowIdError, r"must be a list of whole numbers, got torch.int64 of shape \(\)."),
    ({"loss": [1.0, 2.0]}, ArgumentError, r"must be given loss as a tensor, got list. Write torch.tensor"),
    ({"step": "3"}, ArgumentError, r"SampleHistory.step must be in \[0, 2\*\*31 - 1\), got '3'."),
    ({"keep": None}, ArgumentError, r"SampleHistory.keep must be in \[0, 1\], got None."),
    ({"ids": torch.tensor([[0, 1]])}, RowIdError, r"must be a list of whole numbers, got torch.int64 of shape"),
    ({"ids": torch.tensor([0, 3])}, RowIdError, r"SampleHistory.ids must be in \[0, 3\), got 3."),
    ({"ids": torch.tensor([0, -2])}, RowIdError, r"SampleHistory.ids must be in \[0, 3\), got -2."),
    ({"step": -1}, ArgumentError, r"SampleHistory.step must be in \[0, 2\*\*31 - 1\), got -1."),
    ({"step": 2**31 - 1}, ArgumentError, "SampleHistory.step must be in .*, got 2147483647."),
    ({"successes": TWO}, ArgumentError, "successes and failures together, got successes alone."),
    ({"failures": TWO}, ArgumentError, "successes and failures together, got failures alone."),
    ({"keep": 1.5}, ArgumentError, r"SampleHistory.keep must be in \[0, 1\], got 1.5."),
    ({"successes": -TWO, "failures": TWO}, ArgumentError, "successes must be finite and not negative, got -1.0."),
    ({"successes": TWO, "failures": TWO * NAN}, ArgumentError, "failures must be finite and not negative, got nan."),
    ({"successes": TWO, "failures": TWO, "keep": 2 * TWO}, ArgumentError, r"keep must be in \[0, 1\], got 2.0."),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CALLS)
def test_wrong_updates_change_nothing(
    arguments: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    history = SampleHistory(3, columns=ALL)
    with pytest.raises(error, match=message):
        history.update(**{"ids": torch.tensor([0, 1]), "step": 0, **arguments})
    assert same_bits(history, SampleHistory(3, columns=ALL))


def test_columns_that_are_not_kept() -> None:
    history = SampleHistory(3, columns=("forgetting",))
    with pytest.raises(ArgumentError, match=r"columns must hold 'loss' to take loss, got \['forgetting'\]."):
        history.update(torch.tensor([0]), 0, loss=torch.ones(1))
    with pytest.raises(ArgumentError, match="columns must hold 'success' to take successes"):
        history.update(torch.tensor([0]), 0, successes=torch.ones(1), failures=torch.ones(1))
    with pytest.raises(ArgumentError, match="columns must hold 'forgetting' to take correct"):
        SampleHistory(3).update(torch.tensor([0]), 0, correct=torch.ones(1))
    with pytest.raises(AttributeError, match="got 'ema_loss', which keeps count, last_step, forgettings, last_correct"):
        _ = history.ema_loss


@pytest.mark.parametrize("call", ["read", "beta", "clear"])
def test_ids_outside_the_dataset_are_refused_wherever_they_come(call: str) -> None:
    history = SampleHistory(3, columns=ALL)
    ids = torch.tensor([1, 4])
    calls = {
        "read": lambda: history.read("count", ids),
        "beta": lambda: history.beta(ids, 0),
        "clear": lambda: history.clear(ids),
    }
    with pytest.raises(RowIdError, match=r"SampleHistory.ids must be in \[0, 3\), got 4."):
        calls[call]()


def test_a_state_of_another_dataset_or_other_columns() -> None:
    history = SampleHistory(3)
    with pytest.raises(
        ConfigurationError, match=r"rows must be the length of the dataset \(3\), got a state of 4 rows: the dataset"
    ):
        history.load_state_dict(SampleHistory(4).state_dict())
    with pytest.raises(ConfigurationError, match="columns must be those of the state: count, last_step, got count,"):
        history.load_state_dict(SampleHistory(3, columns=()).state_dict())
    assert same_bits(history, SampleHistory(3))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("count", 2**31, torch.int64),
        ("count", 2**32 + 1, torch.int64),
        ("last_step", 2**31, torch.int64),
        ("forgettings", 2**16, torch.int32),
        ("last_correct", 256, torch.int16),
        ("last_loss", 1e39, torch.float64),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name: str, value: float, kind: torch.dtype) -> None:
    """They would come out as others, some of which look right."""
    history = SampleHistory(3, columns=ALL)
    state = history.state_dict()
    state[name] = state[name].nan_to_num().to(kind)
    state[name][1] = value
    with pytest.raises(ConfigurationError, match=rf"SampleHistory: state\.{name} of the checkpoint must hold numbers"):
        history.load_state_dict(state)
    assert same_bits(history, SampleHistory(3, columns=ALL))


def test_smaller_kinds_of_numbers_are_taken_over() -> None:
    history, state = SampleHistory(3, columns=ALL), SampleHistory(3, columns=ALL).state_dict()
    state["count"], state["last_step"] = (
        torch.tensor([1, 2, 0], dtype=torch.uint8),
        torch.tensor([9, 200, 0]).to(torch.uint8),
    )
    state["last_loss"] = torch.tensor([1.5, float("nan"), 3.0], dtype=torch.bfloat16)
    history.load_state_dict(state)
    assert (history.count.tolist(), history.last_step.tolist()) == ([1, 2, 0], [9, 200, 0])
    assert history.last_loss.nan_to_num(-1).tolist() == [1.5, -1.0, 3.0]


def on_gpu(go: Any) -> SampleHistory:
    return go(SampleHistory(1000, columns=ALL, forget=0.5, device="cuda"), "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_gpu_gives_the_bits_of_the_cpu_and_waits_for_nothing(deterministic: bool) -> None:
    steps = [(torch.randint(-1, 1000, (256,)) // 4, torch.rand(256)) for _ in range(20)]

    def go(history: SampleHistory, device: str) -> SampleHistory:
        for step, (ids, share) in enumerate((i.to(device), s.to(device)) for i, s in steps):
            torch.cuda.set_sync_debug_mode("error")
            every = {"loss": share, "successes": share, "failures": 1 - share, "correct": share}
            history.update(ids, step, keep=share, **every)
            history.beta(ids, step)
            torch.cuda.set_sync_debug_mode("default")
        return history

    torch.use_deterministic_algorithms(deterministic)
    try:
        cuda = on_gpu(go)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.cuda.set_sync_debug_mode("default")
    cpu = go(SampleHistory(1000, columns=ALL, forget=0.5), "cpu")
    assert same_bits(cuda.to("cpu"), cpu)

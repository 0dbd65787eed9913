"""Bad input: a clear error that names the owner, the rule and the value, and nothing is lost."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset

from lightning_select import BatchSelection, LossReweighting
from lightning_select.errors import (
    ArgumentError,
    BatchFormatError,
    ConfigurationError,
    MissingSignalError,
    NonFiniteScoreError,
    ReferenceModelError,
    RowIdError,
    ScoreError,
    SelectionError,
    SelectorError,
    TrainingStepContractError,
    WeightError,
)
from lightning_select.schedule import Anneal, Schedule
from lightning_select.scores.el2n import EL2N
from lightning_select.scores.loss import Loss
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import Signals
from lightning_select.types import Selection
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import First, fit, loader, same, trainer, weights_of
from tests.modules import (
    CLASSES,
    FEATURES,
    ROWS,
    Base,
    Classifier,
    Fused,
    Manual,
    Pixels,
    SumOverRows,
    Tokens,
    features,
    images,
    text,
)


def selection(score: Any = None, selector: Any = None, **kwargs: Any) -> BatchSelection:
    return BatchSelection(score or Loss(), selector or TopK(), **({"keep": 0.5} | kwargs))


@pytest.fixture(autouse=True)
def _no_type_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users have none, so it is our own messages that they see."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@dataclasses.dataclass(frozen=True)
class Returning:
    """A selector that returns what it is told to."""

    make: Any
    with_replacement: bool = False
    needs: frozenset[str] = frozenset()

    def __call__(self, scores, count, context):
        return self.make(count)


class TestArguments:
    @pytest.mark.parametrize("keep", [0, -1, 0.0, 1.5, -0.2, True, float("nan"), float("inf")])
    def test_keep(self, keep: Any) -> None:
        with pytest.raises(ArgumentError, match=r"BatchSelection.keep must be a share in \(0, 1\] or a number of rows"):
            selection(keep=keep)

    def test_keep_that_anneals_out_of_range(self) -> None:
        with pytest.raises(ArgumentError, match=r"BatchSelection.keep must be .*, got 2.0"):
            selection(keep=Anneal(0.5, 2.0))

    def test_keep_larger_than_a_batch(self) -> None:
        with pytest.raises(
            ArgumentError, match=r"BatchSelection.keep must be at most the rows of a batch \(8\), got 64"
        ):
            fit(Classifier, selection(keep=64))

    @pytest.mark.parametrize("name", ["a/b", ""])
    def test_name(self, name: str) -> None:
        with pytest.raises(ArgumentError, match=f"BatchSelection.name must be a word without '/', got '{name}'"):
            selection(name=name)
        with pytest.raises(ArgumentError, match=f"LossReweighting.name must be a word without '/', got '{name}'"):
            LossReweighting(torch.ones_like, name=name)

    @pytest.mark.parametrize("value", ["no", 1, None])
    def test_train_mode(self, value: Any) -> None:
        with pytest.raises(ArgumentError, match=f"BatchSelection.train_mode must be True or False, got {value!r}"):
            selection(train_mode=value)

    @pytest.mark.parametrize("value", ["x", 0.5, True, None])
    def test_seed(self, value: Any) -> None:
        with pytest.raises(ArgumentError, match=f"BatchSelection.seed must be a whole number, got {value!r}"):
            selection(seed=value)

    def test_two_callbacks_of_one_name(self) -> None:
        with pytest.raises(
            ConfigurationError, match=r"must be unique among the Trainer's callbacks, got 'batch_selection' 2"
        ):
            fit(Classifier, selection(), selection(selector=First()))

    def test_two_callbacks_of_two_names(self) -> None:
        assert fit(Classifier, selection(), selection(name="other", keep=2)).global_step == 12

    def test_a_fraction_of_a_training_without_an_end(self) -> None:
        callback = LossReweighting(torch.ones_like, schedule=Schedule(start=0.5))
        with pytest.raises(
            ConfigurationError, match="Schedule.start must be a step while the length of training is unknown"
        ):
            fit(Classifier, callback, max_epochs=-1, max_time={"seconds": 30})


class TestData:
    def test_a_batch_of_one_row(self) -> None:
        single = loader(rows=4, size=1)
        plain = weights_of(fit(Classifier, data=single))
        assert same(plain, weights_of(fit(Classifier, selection(), data=single)))
        assert same(plain, weights_of(fit(Classifier, LossReweighting(lambda losses: losses), data=single)))

    def test_a_last_batch_with_fewer_rows_than_are_kept(self) -> None:
        assert fit(Classifier, selection(keep=6), data=loader(rows=20, size=8)).global_step == 6

    @pytest.mark.parametrize("callback", [selection, lambda: LossReweighting(torch.ones_like)])
    def test_an_empty_batch(self, callback: Any) -> None:
        data = DataLoader(features(), batch_size=None, collate_fn=lambda _: features(rows=0))
        with pytest.raises(BatchFormatError, match="A batch must hold at least one row, got an empty batch"):
            fit(Classifier, callback(), data=data)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_losses_of_some_rows_that_are_not_finite_do_no_harm(self, bad: float) -> None:
        class Odd(Base):
            def training_step(self, batch, batch_idx):
                losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
                return (losses + torch.where(batch[1] == 0, bad, 0.0)).mean()

        for callback in (selection(keep=2), LossReweighting(lambda losses: losses)):
            done = fit(Odd, callback)
            assert all(value.isfinite().all() for value in weights_of(done).values())
            assert done.callback_metrics[f"{callback.name}/not_finite"] >= 0

    def test_too_few_rows_with_a_finite_loss(self) -> None:
        class Odd(Base):
            def training_step(self, batch, batch_idx):
                losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
                first = batch[0][:, 0]
                return (losses + torch.where(first > first.sort().values[1], float("nan"), 0.0)).mean()

        with pytest.raises(NonFiniteScoreError, match="at least as many rows with a finite score as it keeps, got 2"):
            fit(Odd, selection(keep=4))

    @pytest.mark.parametrize("after", [0, 4])
    def test_losses_of_all_rows_that_are_not_finite(self, after: int) -> None:
        class Odd(Base):
            def training_step(self, batch, batch_idx):
                loss = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
                return (loss * (float("nan") if self.global_step >= after else 1.0)).mean()

        with pytest.raises(NonFiniteScoreError, match="BatchSelection must find at least as many rows .*, got 0"):
            fit(Odd, selection())
        with pytest.raises(
            NonFiniteScoreError, match="LossReweighting must find at least one row with a finite loss, got 0"
        ):
            fit(Odd, LossReweighting(lambda losses: losses), log_every_n_steps=3)

    def test_an_iterable_dataset_has_no_ids_and_needs_none(self) -> None:
        class Stream(IterableDataset):
            def __iter__(self):
                yield from zip(*features(rows=32), strict=True)

        data = DataLoader(Stream(), batch_size=8)
        assert fit(Classifier, selection(), data=data).global_step == 8
        with pytest.raises(RowIdError, match="the dataset is iterable, so that its rows have no ids"):
            fit(Classifier, selection(ReducibleLoss(torch.zeros(32))), data=data)

    @pytest.mark.parametrize(
        "extra", [{"overfit_batches": 2}, {"fast_dev_run": True}, {"limit_train_batches": 3}], ids=str
    )
    def test_shortened_fits_select_all_the_same(self, extra: dict[str, Any]) -> None:
        seen = []

        class Counting(Classifier):
            def training_step(self, batch, batch_idx):
                seen.append(len(batch[0]))
                return super().training_step(batch, batch_idx)

        fit(Counting, selection(ReducibleLoss(torch.zeros(48))), LossReweighting(lambda losses: losses), **extra)
        assert seen[-1] == 4


class TestSteps:
    @pytest.mark.parametrize(
        ("callback", "way_out", "never"),
        [
            (selection, "    def selection_step(self, batch):", "sample_loss|training_step\\(self"),
            (
                lambda: LossReweighting(torch.ones_like),
                "Use automatic optimisation, or BatchSelection with a selection_step",
                "sample_loss|def ",
            ),
        ],
        ids=["selection", "reweighting"],
    )
    def test_manual_optimisation(self, callback: Any, way_out: str, never: str) -> None:
        with pytest.raises(
            TrainingStepContractError, match="Manual.training_step must .* got manual optimisation"
        ) as caught:
            fit(Manual, callback())
        assert way_out in str(caught.value)
        assert re.search(never, str(caught.value)) is None

    @pytest.mark.parametrize("returns", [True, False])
    def test_weights_of_a_selector_under_manual_optimisation(self, returns: bool) -> None:
        class WithStep(Manual):
            def training_step(self, batch, batch_idx):
                super().training_step(batch, batch_idx)
                return self.selection_step(batch).loss.mean() if returns else None

            def selection_step(self, batch):
                return Signals(loss=F.cross_entropy(self(batch[0]), batch[1], reduction="none"))

        module = WithStep()
        before = {key: value.clone() for key, value in module.state_dict().items()}
        with pytest.raises(
            TrainingStepContractError,
            match="WithStep.training_step must .* weights of Importance, got manual optimisation.*without weights",
        ):
            fit(module, selection(selector=Importance()))
        assert same(before, module.state_dict())
        assert fit(WithStep, selection()).global_step == 12

    def test_a_module_that_returns_nothing(self) -> None:
        class Nothing(Base):
            def training_step(self, batch, batch_idx):
                return None

        for callback in (selection(), LossReweighting(torch.ones_like)):
            with pytest.raises(
                TrainingStepContractError, match="Nothing.training_step must .* got None instead of a loss"
            ):
                fit(Nothing, callback)

    def test_a_module_that_sometimes_returns_nothing_skips_those_batches(self) -> None:
        class Sometimes(Classifier):
            seen = ()

            def on_train_batch_start(self, batch, batch_idx):
                self.seen = (*self.seen, batch)

            def training_step(self, batch, batch_idx):
                return None if batch_idx == 2 else super().training_step(batch, batch_idx)

        plain, ours = fit(Sometimes), fit(Sometimes, LossReweighting(torch.ones_like))
        assert same(weights_of(plain), weights_of(ours))
        counted = fit(Sometimes, selection(selector=First(), keep=4))
        assert [len(batch[1]) for batch in counted.lightning_module.seen] == [4, 4, 8, 4, 4, 4] * 2

    def test_a_fused_kernel(self) -> None:
        for callback in (selection(), LossReweighting(torch.ones_like)):
            with pytest.raises(TrainingStepContractError, match=r"fused kernel[\s\S]*sample_loss[\s\S]*selection_step"):
                fit(Fused, callback)

    def test_a_score_without_its_signal(self) -> None:
        class Regression(Base):
            def training_step(self, batch, batch_idx):
                return F.mse_loss(self(batch[0])[:, 0], batch[1].float())

        with pytest.raises(MissingSignalError, match=r"EL2N must have the signal 'logits', got only loss"):
            fit(Regression, selection(EL2N()))

    def test_nothing_of_an_error_stays_in_the_module(self) -> None:
        module = Classifier()
        before = weights_of(type("Done", (), {"lightning_module": module})())
        with pytest.raises(ScoreError, match="must return one floating point number"):
            fit(module, selection(lambda signals: None))
        assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
        assert "training_step" not in vars(module)


class TestScores:
    @pytest.mark.parametrize(
        ("made", "got"),
        [
            (None, "got NoneType"),
            (torch.ones(3), r"got torch.float32 of shape \(3,\)"),
            (torch.ones(ROWS, 1), r"got torch.float32 of shape \(8, 1\)"),
            (torch.ones(ROWS, dtype=torch.int64), "got torch.int64"),
        ],
    )
    def test_what_a_score_may_return(self, made: Any, got: str) -> None:
        with pytest.raises(ScoreError, match="must return one floating point number for each of 8 rows, " + got):
            fit(Classifier, selection(lambda signals: made))


class TestSelectors:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda count: Selection(torch.arange(count - 1)), "Returning must return exactly 4 rows, got 3"),
            (lambda count: Selection(torch.arange(count + 1)), "exactly 4 rows, got 5"),
            (
                lambda count: torch.arange(count),
                "must return a Selection whose index holds int64 positions, got Tensor",
            ),
            (lambda count: Selection(list(range(count))), "got a Selection with a list"),
            (lambda count: Selection(torch.ones(8, dtype=torch.bool)), r"got torch.bool of shape \(8,\)"),
            (lambda count: Selection(torch.zeros(count)), r"got torch.float32 of shape \(4,\)"),
            (lambda count: Selection(torch.tensor([0, 1, 1, 2])), "every row at most once, got row 1 twice"),
            (lambda count: Selection(torch.tensor([0, 1, 2, 8])), "positions inside the batch, got 8"),
            (lambda count: Selection(torch.tensor([0, 1, 2, -3])), "positions inside the batch, got -3"),
        ],
    )
    def test_what_a_selector_may_return(self, make: Any, message: str) -> None:
        with pytest.raises(SelectorError, match=message):
            fit(Classifier, selection(selector=Returning(make)))

    @pytest.mark.parametrize(
        ("state", "got"),
        [
            ({"a": 3}, "got int as 'a'"),
            (None, "got NoneType"),
            ([torch.ones(1)], "got list"),
            ({1: torch.ones(1)}, "got Tensor as 1"),
            ({"a": torch.ones(2).to_sparse()}, "got a torch.sparse_coo tensor as 'a'"),
            ({"a": torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged)}, "got a nested tensor"),
        ],
    )
    def test_what_state_a_selector_may_keep(self, state: Any, got: str) -> None:
        with pytest.raises(SelectorError, match="Returning must return a state of tensors by name, " + got):
            fit(Classifier, selection(selector=Returning(lambda count: Selection(torch.arange(count), None, state))))

    def test_a_row_twice_where_rows_are_drawn_with_replacement(self) -> None:
        make = lambda count: Selection(torch.zeros(count, dtype=torch.int64))  # noqa: E731
        assert fit(Classifier, selection(selector=Returning(make, with_replacement=True))).global_step == 12

    def test_something_that_is_no_selector(self) -> None:
        with pytest.raises(ArgumentError, match="BatchSelection.selector must be a Selector"):
            selection(selector=lambda scores, count: None)

    def test_a_class_where_an_object_is_due(self) -> None:
        with pytest.raises(ArgumentError, match=r"BatchSelection.score must be .* no class, got <class .*Loss'>"):
            selection(Loss)
        with pytest.raises(ArgumentError, match=r"BatchSelection.selector must be a Selector .*, got <class .*TopK'>"):
            selection(selector=TopK)
        with pytest.raises(ArgumentError, match=r"weighting must be .* no class, got <class .*DynamicLoss'>"):
            LossReweighting(DynamicLoss)

    def test_something_that_is_no_score(self) -> None:
        with pytest.raises(ArgumentError, match="BatchSelection.score must be callable and no class, got 'loss'"):
            selection("loss")


WEIGHTS = [
    (lambda n: torch.full((n,), -1.0), r"weights that are not negative, got -1"),
    (lambda n: torch.full((n,), float("nan")), r"must return finite weights, got \d+ that are not"),
    (lambda n: torch.full((n,), float("inf")), "must return finite weights"),
    (lambda n: torch.zeros(n), "at least one weight above zero, got a sum of 0"),
    (lambda n: torch.ones(n, requires_grad=True), "weights that need no gradient"),
    (lambda n: torch.ones(n + 1), "one floating point weight for each of . rows, got torch.float32 of shape"),
    (lambda n: torch.ones(n, dtype=torch.int64), "got torch.int64"),
    (lambda n: None, "got NoneType"),
]


class TestWeights:
    @pytest.mark.parametrize(("make", "message"), WEIGHTS)
    def test_what_a_weighting_may_return(self, make: Any, message: str) -> None:
        with pytest.raises(WeightError, match=message):
            fit(Classifier, LossReweighting(lambda losses: make(len(losses))))

    @pytest.mark.parametrize(("make", "message"), WEIGHTS[:-1])
    def test_what_weights_a_selector_may_return(self, make: Any, message: str) -> None:
        with pytest.raises(WeightError, match=message):
            fit(Classifier, selection(selector=First(make)))

    def test_weights_that_break_a_rule_later_never_reach_the_parameters(self) -> None:
        calls = []

        def turning(losses: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return torch.ones_like(losses) if len(calls) < 3 else torch.full_like(losses, float("nan"))

        module = Classifier()
        with pytest.raises(WeightError, match="turning must return finite weights, got 8 that are not"):
            fit(module, LossReweighting(turning), log_every_n_steps=1000)
        assert len(calls) == 6  # found at the end of the epoch
        assert all(value.isfinite().all() for value in module.state_dict().values())

    def test_something_that_is_no_weighting(self) -> None:
        with pytest.raises(ArgumentError, match="LossReweighting.weighting must be callable and no class, got 'focal'"):
            LossReweighting("focal")


class TestReferences:
    @pytest.mark.parametrize(
        ("reference", "error", "message"),
        [
            (["a"] * 48, ReferenceModelError, "ReducibleLoss.reference must hold numbers, got a list"),
            ([[1.0], [1.0, 2.0]], ReferenceModelError, "must hold numbers, got a list"),
            ({0: "a"}, ReferenceModelError, "must hold numbers, got a dict"),
            ({0: 10**400}, ReferenceModelError, "must hold numbers, got a dict"),
            ({True: 1.0}, ReferenceModelError, "must map row ids"),
            (torch.ones(48).to_sparse(), ReferenceModelError, "one loss per row id, got a torch.sparse_coo tensor"),
            (np.array(["a"] * 48), ReferenceModelError, "must hold numbers, got a ndarray"),
            (torch.zeros(47), ReferenceModelError, "one loss for each of the 48 rows of the training dataset, got 47"),
            (
                {i: 0.0 for i in range(48) if i != 5},
                RowIdError,
                "must hold a loss for every row id of a batch, got 1 rows",
            ),
            ({"a": 1.0}, ReferenceModelError, "must map row ids"),
            (torch.zeros(3, 2), ReferenceModelError, r"one loss per row id, got shape \(3, 2\)"),
            ("missing.pt", ReferenceModelError, "must be a file that exists, got missing.pt"),
            (5, ReferenceModelError, "must be a table of losses by row id, a module, a path or a Holdout, got 5"),
            (
                torch.nn.Linear(2, 2),
                ReferenceModelError,
                "a module with a training_step or a selection_step, got Linear",
            ),
            (torch.full((48,), 9.0), ReferenceModelError, "must know the data better than the untrained model"),
        ],
    )
    def test_references_that_do_not_fit(self, reference: Any, error: type[SelectionError], message: str) -> None:
        with pytest.raises(error, match=message):
            fit(Classifier, selection(ReducibleLoss(reference), keep=4), data=loader(shuffle=False))

    @pytest.mark.parametrize("seed", range(10))
    @pytest.mark.parametrize(("kind", "make"), [(Classifier, features), (Tokens, text), (Pixels, images)])
    def test_an_untrained_module(self, kind: type[Base], make: Any, seed: int) -> None:
        torch.manual_seed(seed)
        reference = kind()
        with pytest.raises(ReferenceModelError, match="must predict the classes better|Train the reference longer"):
            fit(kind, selection(ReducibleLoss(reference)), data=DataLoader([make(rows=256)], batch_size=None))

    def test_a_module_that_learned_other_labels(self) -> None:
        x, y = features(rows=64)
        reference = fit(Classifier, data=DataLoader([(x, (y + 1) % CLASSES)] * 300, batch_size=None)).lightning_module
        with pytest.raises(ReferenceModelError, match="on these classes in this order"):
            fit(Classifier, selection(ReducibleLoss(reference)), data=DataLoader([(x, y)], batch_size=None))

    def test_a_checkpoint_of_another_module(self, tmp_path) -> None:
        torch.save({"net.0.weight": torch.zeros(2, FEATURES)}, tmp_path / "other.pt")
        with pytest.raises(
            ReferenceModelError, match="must be a checkpoint of Classifier, got .*other.pt, whose weights do not"
        ):
            fit(Classifier, selection(ReducibleLoss(str(tmp_path / "other.pt"))))

    def test_a_checkpoint_that_would_run_code(self, tmp_path) -> None:
        torch.save(Schedule(), tmp_path / "hostile.pt")
        with pytest.raises(ReferenceModelError, match="load with weights_only=True"):
            fit(Classifier, selection(ReducibleLoss(str(tmp_path / "hostile.pt"))))

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("index", "id_key must name an entry of the batch, got 'index'"),
            (7, "id_key must name an entry of the batch, got 7"),
            (0, r"The batch entry 0 must hold 8 whole numbers, got torch.float32 of shape \(8, 6\)"),
        ],
    )
    def test_ids_that_are_not_in_the_batch(self, key: Any, message: str) -> None:
        with pytest.raises(RowIdError, match=message):
            fit(Classifier, selection(ReducibleLoss(torch.zeros(48)), id_key=key))

    def test_ids_outside_the_table(self) -> None:
        class Shifted(Base):
            def training_step(self, batch, batch_idx):
                return F.cross_entropy(self(batch[0]), batch[1])

        data = [(*features(seed), torch.arange(ROWS) + 45) for seed in range(3)]
        with pytest.raises(RowIdError, match="got 5 rows without one"):
            fit(Shifted, selection(ReducibleLoss(torch.zeros(48)), id_key=2), data=DataLoader(data, batch_size=None))


def test_every_error_is_a_selection_error_and_tells_what_it_got() -> None:
    import lightning_select.errors as errors

    for name in errors.__all__:
        assert issubclass(getattr(errors, name), SelectionError)


def test_a_trainer_that_only_validates_is_left_alone() -> None:
    class Validating(SumOverRows):
        def validation_step(self, batch, batch_idx):
            self.log("rows", float(len(batch[0])))

    judge = trainer(selection(), LossReweighting(torch.ones_like))
    (metrics,) = judge.validate(Validating(), loader(shuffle=False), verbose=False)
    assert metrics["rows"] == ROWS

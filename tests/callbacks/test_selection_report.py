from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, IterableDataset

from lightning_select import BatchSelection, LossReweighting, SamplerFeedback, SelectionReport
from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.importance import Importance
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import Signals
from lightning_select.signals.head.head import Head
from lightning_select.weightings.focal import Focal
from tests.fitting import Rows, fit, loader, same, trainer, weights_of
from tests.modules import (
    CLASSES,
    SCENARIOS,
    Base,
    Classifier,
    Fused,
    Manual,
    SampleLoss,
    Scenario,
    Tokens,
    features,
    text,
)

EVERY = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
ROWS = 48


def table(report: SelectionReport) -> Any:
    assert report.noting is not None
    return report.noting.record.table()


class Witness(pl.Callback):
    """Notes from outside what a report notes from inside: ids, losses and margins of every training batch."""

    def __init__(self) -> None:
        self.offered = np.zeros(ROWS, int)
        self.chosen = np.zeros(ROWS, int)
        self.losses: list[list[float]] = [[] for _ in range(ROWS)]
        self.margins: list[list[float]] = [[] for _ in range(ROWS)]
        self.data = features(rows=ROWS)

    def row_of(self, x: Tensor) -> int:
        return int((self.data[0] == x).all(dim=1).nonzero().item())

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            logits = module.net(batch[0])
        for x, y, row_logits in zip(*batch, logits, strict=True):
            row, label = self.row_of(x), int(y)
            self.chosen[row] += 1
            self.losses[row].append(float(F.cross_entropy(row_logits, y)))
            others = [float(value) for place, value in enumerate(row_logits) if place != label]
            self.margins[row].append(float(row_logits[label]) - max(others))


def test_ordinary_training_by_a_witness(tmp_path: Path) -> None:
    witness, report = Witness(), SelectionReport(tmp_path)
    fit(Classifier, witness, report, max_epochs=3)
    found = table(report)
    np.testing.assert_array_equal(found.offered, np.full(ROWS, 3))
    np.testing.assert_array_equal(found.chosen, witness.chosen)
    np.testing.assert_array_equal(found.weight, np.ones(ROWS))
    np.testing.assert_allclose(found.loss, [np.mean(losses) for losses in witness.losses], rtol=1e-4)
    np.testing.assert_allclose(found.margin, [np.mean(margins) for margins in witness.margins], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.visits, np.full(ROWS, 3))
    np.testing.assert_array_equal(found.label, witness.data[1])
    assert np.isnan(found.score).all()
    assert found.periods == ("epoch 1", "epoch 2", "epoch 3")
    assert (found.chosen_in == 1).all()


def test_a_selection_by_a_witness(tmp_path: Path) -> None:
    witness, report = Witness(), SelectionReport(tmp_path)
    fit(Classifier, witness, BatchSelection(Loss(), TopK(), keep=0.25), report, max_epochs=4)
    found = table(report)
    np.testing.assert_array_equal(found.offered, np.full(ROWS, 4))
    np.testing.assert_array_equal(found.chosen, witness.chosen)
    assert found.chosen.sum() == 4 * ROWS // 4
    assert np.isfinite(found.score).all()
    assert np.isfinite(found.loss).all()  # the scoring pass saw the losses of those that were left out
    assert np.isnan(found.weight[found.chosen == 0]).all()
    assert (found.visits <= 4).all()
    np.testing.assert_allclose(found.score, found.loss, rtol=1e-5)  # this score is the loss, in a net without dropout


def test_weights_of_selector_and_weighting_multiply(tmp_path: Path) -> None:
    report, seen = SelectionReport(tmp_path), []

    class Spy(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            seen.append(report.interception.applied.clone())

    weigh = LossReweighting(lambda losses: torch.linspace(1, 3, len(losses)))
    fit(Classifier, Spy(), weigh, BatchSelection(Loss(), Importance(), keep=4), report, max_epochs=2)
    found = table(report)
    total = np.where(found.chosen > 0, found.weight * found.chosen, 0).sum()
    assert total == pytest.approx(float(torch.cat(seen).sum()), rel=1e-4)
    assert found.chosen.sum() == sum(len(one) for one in seen)


@pytest.mark.parametrize("order", [0, 1])
def test_a_selection_that_is_off_offers_and_trains_on_everything(order: int, tmp_path: Path) -> None:
    from lightning_select.schedule import Schedule

    report, pick = SelectionReport(tmp_path), BatchSelection(Loss(), TopK(), keep=2, schedule=Schedule(start=6))
    fit(Classifier, *((report, pick) if order else (pick, report)), max_epochs=2)
    found = table(report)
    assert (found.offered == 2).all()
    assert (found.chosen_in[:, 0] == 1).all()
    assert found.chosen_in[:, 1].sum() == 2 * 6


def test_samplers_and_duplicates(tmp_path: Path) -> None:
    report, data = SelectionReport(tmp_path), Rows(rows=ROWS)
    sampler = LossProportional(ROWS, floor=0.1, replacement=True)
    fit(Classifier, SamplerFeedback(), report, data=DataLoader(data, 8, sampler=sampler), max_epochs=3)
    found = table(report)
    np.testing.assert_array_equal(found.offered, found.chosen)
    assert found.chosen.sum() == 3 * ROWS
    assert found.chosen.max() > 3


@EVERY
def test_training_is_bit_for_bit_the_same(scenario: Scenario, tmp_path: Path) -> None:
    plain = fit(scenario.module, data=loader(scenario.batch))
    reported = fit(scenario.module, SelectionReport(tmp_path), data=loader(scenario.batch))
    assert same(weights_of(plain), weights_of(reported))
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("module", [Fused, Manual], ids=lambda module: module.__name__)
def test_a_step_that_cannot_be_read_is_counted(module: Any, tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    plain, reported = fit(module), fit(module, report)
    assert same(weights_of(plain), weights_of(reported))
    found = table(report)
    assert (found.chosen == 2).all()
    assert np.isnan(found.loss).all()
    assert len(report.notices) == 1
    assert (tmp_path / "report.html").exists()


def test_a_weighting_that_cannot_read_the_step_still_says_so(tmp_path: Path) -> None:
    from lightning_select.errors import TrainingStepContractError

    with pytest.raises(TrainingStepContractError, match="must show one loss per row"):
        fit(Fused, LossReweighting(Focal()), SelectionReport(tmp_path))


def test_rows_of_many_predictions_have_losses_and_no_margins(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    fit(Tokens, report, data=loader(text))
    assert np.isfinite(table(report).loss).all()
    assert np.isnan(table(report).margin).all()
    assert any("no margins" in notice for notice in report.notices)


def test_a_step_that_returns_its_row_losses(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    fit(SampleLoss, report)
    assert np.isfinite(table(report).loss).all()


def test_margins_can_be_left_out(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path, margins=False)
    fit(Classifier, report)
    assert np.isfinite(table(report).loss).all()
    assert np.isnan(table(report).margin).all()


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, ValueError])
def test_a_page_is_written_when_training_ends_early(interrupted: Any, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == 3:
                raise interrupted("enough")

    report, before = SelectionReport(tmp_path), set(vars(Classifier()))
    module = Classifier()
    with pytest.raises((SystemExit, ValueError)):
        fit(module, Stop(), report)
    assert "ended early" in (tmp_path / "report.html").read_text()
    assert report.noting is not None
    assert report.noting.offered in (16, 24)
    assert "training_step" not in set(vars(module)) - before
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored


def test_a_run_that_goes_on_has_one_record(tmp_path: Path) -> None:
    whole = SelectionReport(tmp_path / "whole")
    fit(Classifier, whole, max_epochs=4, data=loader(shuffle=False))
    first, second = SelectionReport(tmp_path / "first"), SelectionReport(tmp_path / "second")
    done = fit(Classifier, first, max_epochs=2, data=loader(shuffle=False))
    done.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    again = trainer(second, max_epochs=4)
    again.fit(Classifier(), loader(shuffle=False), ckpt_path=tmp_path / "last.ckpt")
    expected, found = table(whole).columns(), table(second).columns()
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(table(second).chosen_in, table(whole).chosen_in)
    assert second.noting.offered == whole.noting.offered


def test_every_report_tells_what_selection_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[Any] = []
    monkeypatch.setattr(
        "lightning_select.callbacks.report_parts.write_report", lambda place, data: costs.append(data.cost)
    )
    first, second = SelectionReport(tmp_path / "first"), SelectionReport(tmp_path / "second", name="other")
    pick = BatchSelection(Loss(), TopK(), keep=2)
    for _ in range(2):
        fit(Classifier, first, pick, second)
        seconds = first.clock.seconds[pick]
        assert seconds > 0
        assert [cost.selection_seconds for cost in costs[-2:]] == [seconds, seconds]
        assert [cost.report_seconds for cost in costs[-2:]] == [second.clock.seconds[one] for one in (second, first)]


def test_a_second_fit_starts_afresh(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    fit(Classifier, report)
    fit(Classifier, report)
    assert (table(report).offered == 2).all()


def test_several_ranks_hold_one_record(tmp_path: Path) -> None:
    torch.manual_seed(1)
    report = SelectionReport(tmp_path)
    pick = BatchSelection(Loss(), TopK(), keep=0.5)
    done = trainer(pick, report, devices=2, strategy="ddp_fork", max_epochs=2)
    done.fit(Classifier(), DataLoader(Rows(rows=ROWS), 8, shuffle=True))
    rows = np.genfromtxt(tmp_path / "rows.csv", delimiter=",", names=True)
    assert (rows["offered"] == 2).all()  # each row once per epoch, on one rank or the other
    assert rows["chosen"].sum() == ROWS


class TellsAll(Base):
    """Has a selection step that gives losses and the output head."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def selection_step(self, batch):
        hidden, last = self.net[:2](batch[0]), self.net[2]
        losses = F.cross_entropy(last(hidden), batch[1], reduction="none")
        return Signals(loss=losses, targets=batch[1], head=Head.linear(hidden, last.weight, last.bias))


def test_losses_that_a_selection_step_gives_are_told_of_every_candidate(tmp_path: Path) -> None:
    fit(TellsAll, BatchSelection(NuclearNorm(), TopK(), keep=0.25), SelectionReport(tmp_path), data=loader())
    rows = np.genfromtxt(tmp_path / "rows.csv", delimiter=",", names=True)
    assert (rows["chosen"] == 0).any()
    assert np.isfinite(rows["loss"]).all()


def test_a_selection_step_under_a_sharding_strategy_is_not_told_to_show_losses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lightning_select.signals.scoring.sharding_strategy", lambda strategy: "FSDPStrategy")
    caplog.set_level("INFO")
    fit(TellsAll, BatchSelection(NuclearNorm(), TopK(), keep=0.25))
    assert "FSDPStrategy" not in caplog.text


def test_new_folders_are_made_beside_the_logs(tmp_path: Path) -> None:
    first, second, third = SelectionReport(), SelectionReport(), SelectionReport(name="other")
    fit(Classifier, first, default_root_dir=tmp_path)
    fit(Classifier, second, third, default_root_dir=tmp_path)
    assert first.file == tmp_path / "selection_report" / "report.html"
    assert second.file == tmp_path / "selection_report_1" / "report.html"
    assert third.file == tmp_path / "selection_report_2" / "report.html"


def test_two_reports_on_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be another one for each report of a Trainer"):
        fit(Classifier, SelectionReport(tmp_path), SelectionReport(str(tmp_path), name="other"))


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(kind: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    place = tmp_path / "taken" if kind == "file" else tmp_path / "taken" / "deeper"
    module = Classifier()
    before = weights_of(fit(module, max_epochs=0))
    with pytest.raises(ConfigurationError, match="SelectionReport.folder must be a folder that can be written to"):
        fit(module, SelectionReport(place))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_a_full_disk_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_select.callbacks.report_parts.write_report", full)
    report = SelectionReport(tmp_path)
    with caplog.at_level("INFO"):
        done = fit(Classifier, report)
    assert done.state.finished
    assert report.file is None
    assert "No space left on device" in caplog.text


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return zip(*features(rows=16), strict=True)


def test_rows_without_ids_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SelectionReport must know the length of the dataset"):
        fit(Classifier, SelectionReport(tmp_path), data=DataLoader(Stream(), 4))
    with pytest.raises(RowIdError, match="id_key='index'"):
        fit(Classifier, SelectionReport(tmp_path, rows=16), data=DataLoader(Stream(), 4))


class Named(Base):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["x"]), batch["y"])


def named(rows: int = 16) -> dict[str, Tensor]:
    x, y = features(rows=rows)
    return {"x": x, "y": y, "index": torch.arange(rows).flip(0), "site": torch.arange(rows) % 3}


def test_ids_and_groups_of_the_batch(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path, id_key="index", groups="site")
    fit(Named, report, data=loader(named, rows=16), max_epochs=1)
    found = table(report)
    np.testing.assert_array_equal(found.group, named()["site"].flip(0))
    np.testing.assert_array_equal(found.label, named()["y"].flip(0))


@pytest.mark.parametrize("groups", [list("ab") * 8, np.arange(16) % 2])
def test_groups_by_row(groups: Any, tmp_path: Path) -> None:
    from lightning_select.callbacks.report_parts import table_of

    report = SelectionReport(tmp_path, groups=groups)
    fit(Named, report, data=loader(named, rows=16))
    found = table_of(report)
    assert found.group.tolist() == [0, 1] * 8
    assert found.group_name(1) == ("b" if isinstance(groups, list) else "1")


def test_groups_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"SelectionReport.groups must be one per row of the dataset \(16\)"):
        fit(Named, SelectionReport(tmp_path, groups=[1, 2]), data=loader(named, rows=16))
    with pytest.raises(ConfigurationError, match="SelectionReport.groups must name an entry of the batch"):
        fit(Named, SelectionReport(tmp_path, groups="nobody"), data=loader(named, rows=16))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("title", ""), ("class_names", "abc"), ("groups", 3), ("show", 3), ("margins", 1), ("rows", 0), ("rows", True)],
)
def test_arguments_are_checked(argument: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"SelectionReport.{argument} must"):
        SelectionReport(**{argument: value})


def test_losses_that_are_not_finite(tmp_path: Path) -> None:
    class Sick(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self(torch.where(x[:, :1] > 1, torch.nan, x)), y)

    report = SelectionReport(tmp_path)
    fit(Sick, report, max_epochs=1)
    found, x = table(report), features(rows=ROWS)[0]
    sick = (x[:, 0] > 1).numpy()
    assert sick.any()
    assert np.isnan(found.loss[sick]).all()
    assert (found.chosen == 1).all()


def test_one_epoch_is_cut_by_steps(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    fit(Classifier, report, max_epochs=1)
    found = table(report)
    assert found.periods == tuple(f"step {number}" for number in range(6))
    assert (found.chosen_in.sum(axis=0) == 8).all()


class Marked(Rows):
    """Rows that can be told from each other on a page."""

    def __getitem__(self, position: int) -> Any:
        return {**super().__getitem__(position), "mark": f"mark of row {position}"}


@pytest.mark.parametrize("early", [False, True])
def test_cards_show_rows_of_the_training_dataset(early: bool, tmp_path: Path) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if early and trainer.global_step == 3:
                raise ValueError("enough")

    report = SelectionReport(tmp_path)
    with pytest.raises(ValueError, match="enough") if early else nullcontext():
        fit(Named, BatchSelection(Loss(), TopK(), keep=2), report, Stop(), data=DataLoader(Marked(named, 16), 4))
    page = (tmp_path / "report.html").read_text()
    assert "mark of row" in page
    assert "Error" not in page.replace("ValueError: enough", "")


def test_what_a_dataset_draws_for_the_page_is_put_back(tmp_path: Path) -> None:
    class Noisy(Rows):
        def __getitem__(self, position: int) -> Any:
            x, y = super().__getitem__(position)
            return x + torch.randn(()), y

    class After(pl.Callback):
        state: Tensor

        def teardown(self, *rest: Any, **named: Any) -> None:
            self.state = torch.get_rng_state()

    plain, reported = After(), After()
    fit(Classifier, plain, data=DataLoader(Noisy(), 8, shuffle=True))
    fit(Classifier, reported, SelectionReport(tmp_path), data=DataLoader(Noisy(), 8, shuffle=True))
    assert torch.equal(plain.state, reported.state)


def test_no_process_and_no_file_is_left_behind(tmp_path: Path) -> None:
    fit(Classifier, SelectionReport(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["report.html", "rows.csv"]


@pytest.mark.parametrize("selects", [False, True])
def test_nothing_waits_for_the_device(selects: bool, tmp_path: Path) -> None:
    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    class Watch(pl.Callback):
        """Looks on while the report takes in a batch."""

        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            noting = report.noting
            with Operations():
                noting.hear(signals)
                noting.overhear(None, signals, signals.loss, margins=True)
                noting.close(report.interception, 1, 0, None, margins=True)

    seen: list[str] = []
    signals = Signals(loss=torch.rand(8), logits=torch.randn(8, 3), targets=torch.randint(0, 3, (8,)))
    report = SelectionReport(tmp_path)
    callbacks = [BatchSelection(Loss(), TopK(), keep=8)] if selects else []
    fit(Classifier, *callbacks, report, Watch(), max_epochs=1)
    assert any("index_add_" in name for name in seen)
    waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal.default", "item")
    added = [name for name in seen if any(wait in name for wait in waits)]
    seen.clear()
    with Operations():  # on a CPU, torch looks at the levels of its quantiles; older ones by such an operation
        torch.nanquantile(torch.rand(8), torch.rand(3))
    assert not [name for name in added if name not in seen]


def shifted(rows: int = 16) -> dict[str, Tensor]:
    return named(rows) | {"index": torch.arange(rows) + 4}


def test_ids_that_are_not_in_the_dataset_are_told(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path, id_key="index")
    fit(Named, report, data=loader(shifted, rows=16), max_epochs=2)
    assert any(notice.startswith("8 rows of batches had ids that are not in [0, 16)") for notice in report.notices)


def test_rows_without_a_finite_loss_are_told(tmp_path: Path) -> None:
    class Odd(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            losses = F.cross_entropy(self(x), y, reduction="none")
            return torch.where(x[:, 0] > 1.4, torch.nan, losses).mean()  # its gradient is finite

    x = features(rows=ROWS)[0]
    odd = (x[:, 0] > 1.4).nonzero().flatten().tolist()
    assert odd
    report = SelectionReport(tmp_path)
    fit(Odd, report, max_epochs=1)
    first = ", ".join(map(str, odd))
    told = f"{len(odd)} rows that were trained on never had a finite loss, the first of them: {first}."
    assert told in report.notices


class Matched(Base):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ours = self(batch[0])
        return F.cross_entropy(ours @ ours.T, torch.arange(len(ours)))


class Masks(Base):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), (batch[0][:, :CLASSES] > 0).float())


@pytest.mark.parametrize(("module", "words"), [(Matched, "matched with each other"), (Masks, "many predictions each")])
def test_rows_that_are_no_classes_have_no_margins(module: Any, words: str, tmp_path: Path) -> None:
    for place, callbacks in enumerate(([], [BatchSelection(Loss(), TopK(), keep=4)])):
        report = SelectionReport(tmp_path / str(place))
        fit(module, *callbacks, report)
        assert any(words in notice for notice in report.notices)
        assert np.isnan(table(report).margin).all()
        assert (table(report).label == -1).all()


def test_a_fit_that_sees_nothing_leaves_the_report_that_is_there(tmp_path: Path) -> None:
    class Broken(Base):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise ValueError("no")

    fit(Classifier, SelectionReport(tmp_path))
    before = (tmp_path / "rows.csv").read_text()
    with pytest.raises(ValueError, match="no"):
        fit(Broken, SelectionReport(tmp_path))
    assert (tmp_path / "rows.csv").read_text() == before


def test_the_trainer_is_let_go(tmp_path: Path) -> None:
    import pickle

    report = SelectionReport(tmp_path)
    fit(Classifier, report)
    assert report.interception is None
    assert len(pickle.dumps(report)) < 100_000


@pytest.mark.parametrize("groups", [{0: 1}, {1, 2}, 3])
def test_groups_in_no_order_are_refused(groups: Any) -> None:
    with pytest.raises(ArgumentError, match="SelectionReport.groups must hold one group per row"):
        SelectionReport(groups=groups)


@pytest.mark.parametrize("groups", [[[0, 1]] * 16, [[0], [1, 2]] * 8, [0.5] * 16])
def test_groups_that_are_no_names_are_refused_before_training(groups: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SelectionReport.groups must be a whole number or a name per row"):
        fit(Named, SelectionReport(tmp_path, groups=groups), data=loader(named, rows=16))


class Growing:
    """A batch sampler whose batches grow, and which says otherwise."""

    batch_size = 4

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Any:
        return iter([[0, 1], [2, 3, 4, 5, 6, 7]])

    def __len__(self) -> int:
        return 2


def test_batches_that_grow_do_not_stop_several_ranks(tmp_path: Path) -> None:
    done = trainer(
        SelectionReport(tmp_path), devices=2, strategy="ddp_fork", max_epochs=1, use_distributed_sampler=False
    )
    done.fit(Classifier(), DataLoader(Rows(rows=ROWS), batch_sampler=Growing(None)))
    rows = np.genfromtxt(tmp_path / "rows.csv", delimiter=",", names=True)
    assert rows["offered"][:8].tolist() == [2] * 8

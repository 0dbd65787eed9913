"""Data on the device: the same batches as a DataLoader gives, without a wait, and the same resume."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from lightning_select import BatchSelection, SelectionReport, device_loader
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.device_loader import DeviceLoader, samples_of
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK
from tests.fitting import same, trainer, weights_of
from tests.samplers.waits import Waits, as_on_a_device
from tests.test_distributed import Half
from tests.test_distributed import fit as on_ranks

ROWS = 50
X = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (ROWS,), generator=torch.Generator().manual_seed(1))
DATA = TensorDataset(X, Y, torch.arange(ROWS))


class Module(pl.LightningModule):
    """Notes the rows of each batch, as far as it is a training step that counts."""

    def __init__(self, plan: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
        self.plan, self.rows, self.validated = plan, [], []

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.rows.append(batch[2].clone())

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.validated.append(batch[2].tolist())

    def configure_optimizers(self):
        if self.plan:
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sampler(**kwargs: Any) -> LossProportional:
    return LossProportional(DATA, **({"beta": 0.5, "seed": 3} | kwargs))


def fit(loader: Any, *callbacks: Any, plan: bool = False, ckpt_path: Any = None, val: Any = None, **kwargs: Any) -> Any:
    """The module after training, and the ids of its batches."""
    torch.manual_seed(1)
    module = Module(plan)
    done = trainer(SamplerFeedback(), *callbacks, **kwargs)
    done.fit(module, loader, val, ckpt_path=ckpt_path)
    return done, [rows.tolist() for rows in module.rows]


class Samples(Dataset):
    """One sample at a time, as most datasets."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"x": X[row].numpy(), "y": int(Y[row]), "pair": (row, float(row))}


@dataclasses.dataclass
class Columns:
    x: Tensor
    rest: dict[str, Tensor]


def test_a_batch_has_the_form_of_the_dataset() -> None:
    index = slice(4, 8)
    for dataset, expected in (
        (X, X[index]),
        ((X, Y), (X[index], Y[index])),
        ({"x": X, "y": [Y, X]}, {"x": X[index], "y": [Y[index], X[index]]}),
        (Columns(X, {"y": Y}), Columns(X[index], {"y": Y[index]})),
    ):
        found = list(DeviceLoader(dataset, 4))[1]
        assert type(found) is type(expected)
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("dataset", [DATA, Samples(), torch.utils.data.Subset(DATA, range(3, 30))], ids=type)
@pytest.mark.parametrize("drop_last", [False, True])
def test_in_order_like_a_dataloader(dataset: Any, drop_last: bool) -> None:
    ours = DeviceLoader(dataset, 8, drop_last=drop_last)
    theirs = DataLoader(dataset, 8, drop_last=drop_last)
    assert len(ours) == len(theirs)
    assert repr(list(ours)) == repr(list(theirs)) == repr(list(ours))


COLUMNS = {
    "dict": {"x": X, "rest": {"y": Y}},
    "tuple": (X, Y),
    "list": [X, Y],
    "dataclass": Columns(X, {"y": Y}),
    "dataset": TensorDataset(X, Y),
    "samples": Samples(),
}
"""The same rows in every form that a dataset may have."""


class AnyForm(pl.LightningModule):
    """Finds features and labels in a batch of any of these forms."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)

    def training_step(self, batch, batch_idx):
        if isinstance(batch, Columns):
            return F.cross_entropy(self.net(batch.x), batch.rest["y"])
        x, rest = (batch["x"], batch.get("rest", batch)) if isinstance(batch, dict) else batch
        return F.cross_entropy(self.net(x), rest["y"] if isinstance(rest, dict) else rest)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("draws", [True, False], ids=["sampler", "in order"])
@pytest.mark.parametrize("form", COLUMNS)
def test_a_trainer_takes_every_form(form: str, draws: bool, tmp_path: Path) -> None:
    """A report knows of every row too, and its cards show rows rather than columns."""
    loader = DeviceLoader(COLUMNS[form], 8, sampler=LossProportional(ROWS, seed=3) if draws else None)
    trainer(SelectionReport(tmp_path), BatchSelection(Loss(), TopK(), keep=2)).fit(AnyForm(), loader)
    table = np.genfromtxt(tmp_path / "rows.csv", delimiter=",", names=True)
    assert len(table) == ROWS
    assert draws or (table["offered"] == 2).all()
    page = (tmp_path / "report.html").read_text()
    assert "could not be read" not in page
    held = samples_of(loader)
    assert len(held) == ROWS
    for row in (0, 1, 7, ROWS - 1):
        x, y = (torch.as_tensor(one) for one in parts_of(held[row]))
        assert torch.equal(x, X[row])
        assert torch.equal(y, Y[row])


def parts_of(sample: Any) -> tuple[Any, Any]:
    """Features and label of one sample of any form."""
    if isinstance(sample, Columns):
        return sample.x, sample.rest["y"]
    if isinstance(sample, dict):
        return sample["x"], sample["rest"]["y"] if "rest" in sample else sample["y"]
    return tuple(sample)


def test_rows_are_counted_where_the_batch_names_them(tmp_path: Path) -> None:
    """Nobody listens to the loader then, and its dataset still tells how many rows there are."""
    data = {"x": X, "y": Y, "row": torch.arange(ROWS)}
    trainer(SelectionReport(tmp_path, id_key="row")).fit(AnyForm(), DeviceLoader(data, 8))
    assert len(np.genfromtxt(tmp_path / "rows.csv", delimiter=",", names=True)) == ROWS


def test_its_size_is_stated() -> None:
    assert DeviceLoader((X, Y), 4).nbytes == ROWS * (6 * 4 + 8)


def test_shuffling_depends_on_seed_and_epoch_alone() -> None:
    def rows(loader: DeviceLoader) -> list[int]:
        return [row for batch in loader for row in batch.tolist()]

    loader = DeviceLoader(torch.arange(ROWS), 8, shuffle=True, seed=5)
    first, second = rows(loader), rows(loader)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(ROWS))
    loader.sampler.set_epoch(0)
    torch.manual_seed(7)
    assert rows(loader) == first
    assert rows(DeviceLoader(torch.arange(ROWS), 8, shuffle=True, seed=6)) != first


def test_a_shuffled_epoch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    check_resume(tmp_path, lambda: DeviceLoader(DATA, 8, shuffle=True))


@pytest.mark.parametrize("beta", [None, 0.5])
@pytest.mark.parametrize("lag", [0, 3])
def test_the_same_rows_and_weights_as_a_dataloader(beta: float | None, lag: int) -> None:
    ours, drawn = fit(DeviceLoader(DATA, 8, sampler=sampler(beta=beta, lag=lag)))
    theirs, expected = fit(DataLoader(DATA, 8, sampler=sampler(beta=beta, lag=lag)))
    assert drawn == expected
    assert len(drawn) == 14
    assert same(weights_of(ours), weights_of(theirs))


def test_a_batch_knows_what_the_one_before_taught() -> None:
    seen: list[float] = []
    spread: list[float] = []

    class Lag(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            arrival, weights = self.interception(trainer).arrival, self.interception(trainer)._weights
            seen.append(arrival.lag)
            torch.testing.assert_close(arrival.weights.float(), weights, rtol=0, atol=0)
            spread.append(float(weights.std()))

        def interception(self, trainer: Any) -> Any:
            return next(one.interception for one in trainer.callbacks if isinstance(one, SamplerFeedback))

    fit(DeviceLoader(DATA, 8, sampler=sampler()), Lag())
    assert set(seen) == {0}
    assert max(spread) > 0.01


def check_resume(tmp_path: Path, loader: Any, after: Any = None, plan: bool = False, **kwargs: Any) -> None:
    """From a checkpoint in the middle of an epoch, ``after`` goes on as ``loader`` would have."""
    saved = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    settings = {"plan": plan, "enable_checkpointing": True} | kwargs
    whole, rows = fit(loader(), saved, **settings)
    for step in (4, 8):
        path = tmp_path / f"step={step}.ckpt"
        torch.load(path, weights_only=True)
        resumed, rest = fit((after or loader)(), ckpt_path=path, **(settings | {"enable_checkpointing": False}))
        assert rest == rows[step:]
        assert same(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("plan", [False, True])
@pytest.mark.parametrize("limit", [1.0, 5])
def test_resume_in_the_middle_of_an_epoch(tmp_path: Path, plan: bool, limit: float) -> None:
    check_resume(tmp_path, lambda: DeviceLoader(DATA, 8, sampler=sampler()), plan=plan, limit_train_batches=limit)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_what_a_dataloader_left(tmp_path: Path, workers: int) -> None:
    check_resume(
        tmp_path,
        lambda: DataLoader(DATA, 8, sampler=sampler(), num_workers=workers),
        lambda: DeviceLoader(DATA, 8, sampler=sampler()),
    )


def test_a_dataloader_resumes_what_we_left(tmp_path: Path) -> None:
    check_resume(
        tmp_path,
        lambda: DeviceLoader(DATA, 8, sampler=sampler(lag=2)),
        lambda: DataLoader(DATA, 8, sampler=sampler(lag=2)),
    )


def test_rows_on_their_way_in_batches_of_another_size() -> None:
    first = sampler(lag=2)
    first.bind(8, 0, torch.device("cpu"))
    stream = iter(DeviceLoader(DATA, 8, sampler=first).batch_sampler)
    before = next(stream)
    first.arrived(before)
    first.landed()
    second = sampler()
    second.bind(12, 0, torch.device("cpu"))
    second.load_state_dict(first.state_dict())
    batches = list(DeviceLoader(DATA, 12, sampler=second).batch_sampler)
    assert [len(ids) for ids in batches] == [12, 12, 12, 6]
    assert torch.equal(batches[0][:8], next(stream))
    arrivals = [second.arrived(ids) for ids in batches]
    assert [len(arrival.weights) for arrival in arrivals] == [12, 12, 12, 6]
    assert not second.drawing


def test_ids_for_a_table_without_a_sampler_of_ours() -> None:
    """Rows of a low reference loss are what is left to learn: a table makes the even ones such."""
    table = torch.where(torch.arange(ROWS) % 2 == 0, -200.0, 50.0)
    loader = DeviceLoader(DATA, 10, shuffle=True)
    _, rows = fit(loader, BatchSelection(ReducibleLoss(table), TopK(), keep=0.3))
    assert all(row % 2 == 0 for batch in rows for row in batch)


@pytest.mark.parametrize("shuffle", [False, True])
def test_validation_and_both_namespaces(shuffle: bool) -> None:
    import pytorch_lightning

    class Other(pytorch_lightning.LightningModule):
        training_step, validation_step = Module.training_step, Module.validation_step
        on_train_batch_end, configure_optimizers = Module.on_train_batch_end, Module.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
            self.plan, self.rows, self.validated = True, [], []

    rows = []
    for kind, module in ((pl.Trainer, Module(plan=True)), (pytorch_lightning.Trainer, Other())):
        val = DeviceLoader(DATA, 20, shuffle=shuffle)
        settings = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        done = kind(max_epochs=2, accelerator="cpu", callbacks=[SamplerFeedback()], limit_train_batches=4, **settings)
        done.fit(module, DeviceLoader(DATA, 8, shuffle=True), [val, DeviceLoader(DATA, 25)])
        assert done.num_training_batches == 4
        assert done.global_step == done.estimated_stepping_batches == 8
        rows.append([batch.tolist() for batch in module.rows])
        assert sorted(row for batch in module.validated[-5:-2] for row in batch) == list(range(ROWS))
        assert [len(batch) for batch in module.validated[-5:]] == [20, 20, 10, 25, 25]
    assert rows[0] == rows[1]
    assert rows[0][:4] != rows[0][4:]


class Silent(Module):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass


class Between(pl.Callback):
    """Watches from the end of the third step to the end of the sixth."""

    def __init__(self) -> None:
        self.mode = Waits()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 3:
            self.mode.__enter__()
        if trainer.global_step == 6:
            self.mode.__exit__(None, None, None)


@pytest.mark.parametrize("make", [None, sampler], ids=["shuffled", "sampler"])
def test_no_batch_waits_for_the_device(make: Any) -> None:
    one = make() if make else None
    watch = Between()
    torch.manual_seed(1)
    loader = DeviceLoader(DATA, 8, sampler=one, shuffle=one is None)
    done = trainer(SamplerFeedback(), watch, log_every_n_steps=100, max_epochs=1)
    with as_on_a_device(loader.sampler):
        done.fit(Silent(), loader)
    assert done.global_step == 7
    assert not watch.mode.seen


def test_waits_are_seen() -> None:
    watch = Between()
    done = trainer(SamplerFeedback(), watch, log_every_n_steps=100, max_epochs=1)
    done.fit(Silent(), DataLoader(DATA, 8, sampler=sampler()))
    assert "tolist" in watch.mode.seen


class Elsewhere(OnlineSampler):
    """Counts where it is told to draw."""

    def __init__(self) -> None:
        super().__init__(DATA)
        self.moved: list[str] = []

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        return Drawn(torch.arange(count))

    def move(self, device: torch.device) -> None:
        self.moved.append(device.type)


def test_data_goes_to_the_device_asked_for() -> None:
    ours = Elsewhere()
    loader = DeviceLoader((X, Y), 4, sampler=ours, device="meta")
    assert [leaf.device.type for leaf in loader._data] == ["meta", "meta"]
    assert loader.device.type == "meta"
    assert ours.moved == ["meta"]
    assert not ours.fed
    loader.bind(torch.device("cpu"))
    assert loader.device.type == "meta"


def test_data_goes_where_the_trainer_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(DeviceLoader, "bind", lambda self, device: told.append((self.rows, device.type)))
    val = [DeviceLoader((X[:9], Y[:9], Y[:9]), 8)] * 2
    fit(DeviceLoader(DATA, 8, shuffle=True), val=val, num_sanity_val_steps=0)
    assert (ROWS, "cpu") in told[2:]
    assert (9, "cpu") in told[2:]


@pytest.mark.parametrize("why", ["too large", "out of memory"])
def test_data_that_does_not_fit_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    loader = DeviceLoader((X, Y), 4)

    def refuse(part: Any, change: Any) -> Any:
        raise torch.OutOfMemoryError

    room = 2 * loader.nbytes - 1 if why == "too large" else 1e9
    monkeypatch.setattr(device_loader, "_room", lambda device: room)
    if why == "out of memory":
        monkeypatch.setattr(device_loader, "_each", refuse)
    said = f"keeps its data on the cpu: it has 0.0016 MB, and of the {room / 1e6:.4g} MB that are free on meta"
    with pytest.warns(UserWarning, match=said):
        loader.bind(torch.device("meta"))
    assert loader.device.type == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.bind(torch.device("meta"))  # said once
    loader.sampler.bind(4, 0, torch.device("cpu"))
    assert torch.equal(next(iter(loader))[0], X[:4])


def test_data_that_takes_half_of_the_room_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DeviceLoader((X, Y), 4)
    monkeypatch.setattr(device_loader, "_room", lambda device: 2 * loader.nbytes)
    loader.bind(torch.device("meta"))
    assert loader.device.type == "meta"


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(3))


class Words(Samples):
    def __getitem__(self, row: int) -> Any:
        return X[row], f"word {row}"


@pytest.mark.parametrize(
    ("dataset", "kwargs", "said"),
    [
        (Endless(), {}, "DeviceLoader.dataset must have a length and be read by position, got Endless"),
        (3.5, {}, "DeviceLoader.dataset must have a length and be read by position, got float"),
        ((X, Y[:-1]), {}, r"one row per sample each, got tuple with \[0\] Tensor of shape \(50, 6\), \[1\] Tensor of"),
        ((X, torch.tensor(3.0)), {}, "DeviceLoader.dataset must hold tensors with one row per sample each"),
        ({"x": X, "y": "words"}, {}, r"one row per sample each, got dict with \['x'\] Tensor"),
        (Words(), {}, "What cannot be put into one tensor needs a DataLoader"),
        ((), {}, "DeviceLoader.dataset must hold tensors with one row per sample each, got tuple with nothing"),
        (X[:0], {}, r"one row per sample each, got Tensor of shape \(0, 6\)"),
        (X, {"batch_size": 0}, "DeviceLoader.batch_size must be a whole number, at least 1, got 0"),
        (X, {"sampler": LossProportional(ROWS + 1)}, "one of ours for 50 rows, got LossProportional for 51 rows"),
        (X, {"sampler": RandomSampler(DATA)}, "one of ours for 50 rows, got RandomSampler for other rows"),
        (X, {"sampler": LossProportional(ROWS), "shuffle": True}, "DeviceLoader.shuffle must be False with a sampler"),
    ],
)
def test_bad_input(dataset: Any, kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        DeviceLoader(dataset, **kwargs)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_ranks_share_each_draw(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked processes must not inherit a pool of threads in use
    try:
        found = {}
        for name, kind in (("ours", DeviceLoader), ("theirs", DataLoader), ("shuffled", None)):
            (tmp_path / name).mkdir()
            data = Half(22)
            loader = (
                kind(data, 4, sampler=LossProportional(data, beta=0.5)) if kind else DeviceLoader(data, 4, shuffle=True)
            )
            found[name] = on_ranks(tmp_path / name, 2, [SamplerFeedback()], loader)
    finally:
        torch.set_num_threads(threads)
    for rank in (0, 1):
        assert same(found["ours"][rank]["weights"], found["theirs"][rank]["weights"])
        assert all(map(torch.equal, found["ours"][rank]["rows"], found["theirs"][rank]["rows"]))
        assert [len(rows) for rows in found["shuffled"][rank]["rows"]] == [4, 4, 3]
    rows = torch.cat([rows for rank in (0, 1) for rows in found["shuffled"][rank]["rows"]])
    assert len(rows.unique(dim=0)) == 22


def test_overfitting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="DeviceLoader must draw the rows itself, got Trainer.overfit_batches"):
        fit(DeviceLoader(DATA, 8, shuffle=True), overfit_batches=2)


class NoWaits(pl.Callback):
    """Any wait for the device between the second and the fifth step is an error."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        assert batch[0].is_cuda
        if trainer.global_step == 2:
            torch.cuda.set_sync_debug_mode("error")
        if trainer.global_step == 5:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [None, sampler], ids=["shuffled", "sampler"])
def test_on_a_gpu_no_batch_waits(make: Any) -> None:
    loader = DeviceLoader(DATA, 8, sampler=make() if make else None, shuffle=make is None)
    done = trainer(SamplerFeedback(), NoWaits(), max_epochs=1, log_every_n_steps=100, accelerator="gpu")
    try:
        done.fit(Silent(), loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loader.device.type == loader.sampler.device.type == "cuda"

"""A collate function may leave a batch out by giving ``None``, which Lightning skips: all others keep their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from lightning_select import SelectionReport
from lightning_select.samplers.drawn import Drawn
from tests.fitting import SAFELY, same, trainer, weights_of
from tests.modules import CLASSES, FEATURES, Base
from tests.samplers.toy import Weighted

ROWS, SIZE, BAD = 44, 8, (5, 6, 7)  # the last batch of an epoch is a short one

pytestmark = pytest.mark.filterwarnings("ignore:train_dataloader yielded None")


def rows() -> TensorDataset:
    coins = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, FEATURES, generator=coins)
    return TensorDataset(x, torch.randint(CLASSES, (ROWS,), generator=coins), torch.arange(ROWS))


def bad(ids: list[int]) -> bool:
    return not set(BAD).isdisjoint(ids)


def unless_bad(samples: list[Any]) -> Any:
    batch = default_collate(samples)
    return None if bad(batch[2].tolist()) else batch


class Step(Base):
    """Notes its rows; weighs them itself where it is told how."""

    def __init__(self, weights: list[Tensor] | None = None) -> None:
        super().__init__()
        self.weights, self.seen = weights, list[list[int]]()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[2].tolist())
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        return losses.mean() if self.weights is None else (losses * self.weights[batch_idx]).mean()


class Draws(Weighted):
    """Keeps what it drew."""

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        drawn = super().draw(count, generator)
        self.drawn = [*getattr(self, "drawn", []), drawn]
        return drawn


def fitted(data: DataLoader, *callbacks: Any, weights: Any = None, ckpt: Any = None, **kwargs: Any) -> tuple[Any, Step]:
    torch.manual_seed(1)
    module, done = Step(weights), trainer(*callbacks, enable_checkpointing=bool(callbacks), **kwargs)
    done.fit(module, data, **({} if ckpt is None else {"ckpt_path": ckpt, **SAFELY}))
    return done, module


def loader(sampler: Any, workers: int = 0) -> DataLoader:
    return DataLoader(rows(), SIZE, sampler=sampler, collate_fn=unless_bad, num_workers=workers)


@pytest.mark.parametrize("id_key", [None, 2])
@pytest.mark.parametrize(("workers", "accumulated"), [(0, 1), (2, 1), (0, 2)])
def test_the_others_keep_their_rows_and_weights(workers: int, accumulated: int, id_key: int | None) -> None:
    """As plain Lightning trains on the same batches, weighed by hand."""
    sampler, settings = Draws(ROWS, id_key=id_key), {"max_epochs": 1, "accumulate_grad_batches": accumulated}
    done, module = fitted(loader(sampler, workers), **settings)
    batches = [drawn.ids.tolist() for drawn in sampler.drawn]
    assert any(map(bad, batches[:-1]))
    assert [ids for ids, _ in sampler.heard] == module.seen == [ids for ids in batches if not bad(ids)]
    by_hand = DataLoader(rows(), batch_sampler=batches, collate_fn=unless_bad)
    plain, _ = fitted(by_hand, weights=[drawn.weights for drawn in sampler.drawn], **settings)
    for key, value in weights_of(plain).items():
        torch.testing.assert_close(weights_of(done)[key], value, rtol=1e-5, atol=1e-6)


def test_a_report_names_the_rows_of_the_others(tmp_path: Path) -> None:
    report = SelectionReport(tmp_path)
    fitted(DataLoader(rows(), SIZE, collate_fn=unless_bad), report)
    assert report.noting is not None
    assert report.noting.record.table().offered.tolist() == [0] * SIZE + [2] * (ROWS - SIZE)


class SavesWhenLeftOut(Callback):
    """After the batches that were left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch is None and trainer.accumulate_grad_batches == 1:  # Lightning saves no gradients
            trainer.save_checkpoint(self.folder / f"none-step={trainer.global_step}.ckpt")


@pytest.mark.parametrize(("workers", "accumulated", "last"), [(0, 1, 4), (2, 1, 4), (0, 2, 3)])
def test_a_resumed_run_trains_on_the_same_rows(workers: int, accumulated: int, last: int, tmp_path: Path) -> None:
    """Also from a checkpoint of the last batch of an epoch: Lightning would expect one more."""

    def fit(folder: Path, ckpt: Any = None) -> tuple[Any, Step]:
        steps = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        settings = {"max_epochs": -1, "max_steps": 7, "accumulate_grad_batches": accumulated}
        return fitted(loader(Weighted(ROWS), workers), SavesWhenLeftOut(folder), steps, ckpt=ckpt, **settings)

    whole, module = fit(tmp_path / "whole")
    left_out = [one.stem for one in (tmp_path / "whole").glob("none-*")]
    assert bool(left_out) == (accumulated == 1)
    for name in (*left_out[:1], "step=2", f"step={last}"):
        resumed, rest = fit(tmp_path / f"from {name}", tmp_path / "whole" / f"{name}.ckpt")
        assert rest.seen == module.seen[-len(rest.seen) :]
        assert resumed.current_epoch == whole.current_epoch
        assert same(weights_of(whole), weights_of(resumed))

"""Peer review on two ranks: each ranks its own pairs, and both end with the same models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.preferences.peer_select import PeerSelect
from tests.fitting import trainer
from tests.preferences.pairs_of import Pairs, loader, review

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
]

PAIRS = Pairs()


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Forked processes must not inherit a pool of threads in use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Report(pl.Callback):
    """What each rank saw and has in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.places.append(batch["place"].tolist())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(self.places))
        sampler = trainer.train_dataloader.sampler
        found = {"weights": pl_module.state_dict(), "sampler": sampler.tensors()}
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


def fit(folder: Path, *callbacks: Any, seeds: Any = (0, 1), ckpt_path: Any = None, **kwargs: Any) -> Any:
    """Batches of each rank, and what it has in the end."""
    folder.mkdir(exist_ok=True)
    data = loader(PAIRS, size=5, curriculum=EasyFirst(0.5, 3))
    settings = {"devices": 2, "strategy": "ddp_fork", "max_epochs": 2, **kwargs}
    done = trainer(Report(folder), *callbacks, **settings)
    done.fit(review(seeds=seeds, select=PeerSelect(0.4)), data, ckpt_path=ckpt_path)
    places = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return places, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def equal(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_ranks_share_the_pairs_and_end_alike(tmp_path: Path) -> None:
    (one, two), (here, there) = fit(tmp_path)
    assert len(one) == len(two) == 8
    for model in (0, 1):
        first = [row for places in (*one[:4], *two[:4]) for row in places[model::2]]
        assert sorted(first) == list(range(40))
    equal(here, there)
    assert bool(here["sampler"]["table"][2].sum() == 80)  # reviews of the last epoch, from both ranks


def test_a_run_on_two_ranks_goes_on_from_a_checkpoint_amid_an_epoch(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    (whole, _), (expected, _) = fit(tmp_path / "whole", keep, enable_checkpointing=True)
    (rest, _), (resumed, _) = fit(tmp_path / "rest", seeds=(5, 6), ckpt_path=tmp_path / "step=10.ckpt")
    assert rest == whole[5:]
    equal(resumed, expected)


def test_the_models_are_those_of_averaged_gradients(tmp_path: Path) -> None:
    """Each rank keeps the surest pairs of its own batch."""
    from tests.preferences.test_peer_review import margin

    places, (found, _) = fit(tmp_path, max_epochs=1)
    module = review(select=PeerSelect(0.4))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in module.models]
    for step in range(4):
        for mine in (0, 1):
            batches = [PAIRS.take(places[rank][step][mine::2]) for rank in (0, 1)]
            (sum(module.loss(margin(module.models[mine], batch)) for batch in batches) / 2).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(module.state_dict(), found["weights"], rtol=1e-5, atol=1e-6)

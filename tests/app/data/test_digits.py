from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import default_collate

from lightning_select.app.data.digits import Digits
from lightning_select.errors import ArgumentError, ConfigurationError


def parts(**kwargs) -> dict[str, dict[str, torch.Tensor]]:
    """All rows of each part."""
    data = Digits(**kwargs)
    data.setup("fit")
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    return {name: loader.dataset.__getitems__(range(len(loader.dataset))) for name, loader in loaders.items()}


def test_a_share_of_the_training_labels_is_wrong_and_no_other() -> None:
    clean, noisy = parts(seed=3), parts(seed=3, noise=0.2)
    for name, rows in clean.items():
        assert torch.equal(rows["x"], noisy[name]["x"])
        assert not rows["flipped"].any()
        assert torch.equal(noisy[name]["flipped"], rows["y"] != noisy[name]["y"])
    assert [noisy[name]["flipped"].sum().item() for name in noisy] == [round(0.2 * 1077), 0, 0]
    assert len(noisy["train"]["y"][noisy["train"]["flipped"]].unique()) == 10


def test_the_parts_share_no_row() -> None:
    rows = parts()
    assert [len(part["y"]) for part in rows.values()] == [1077, 360, 360]
    assert torch.cat([part["x"] for part in rows.values()]).sum() == parts(seed=9)["train"]["x"].sum() + sum(
        part["x"].sum() for name, part in parts(seed=9).items() if name != "train"
    )


def test_the_seed_decides_the_split_and_the_wrong_labels() -> None:
    assert torch.equal(parts(seed=1, noise=0.2)["train"]["y"], parts(seed=1, noise=0.2)["train"]["y"])
    assert not torch.equal(parts(seed=1)["train"]["x"], parts(seed=2)["train"]["x"])


def test_a_batch_is_what_a_plain_loader_would_make() -> None:
    data = Digits(noise=0.2)
    data.setup("fit")
    rows = data.train_dataloader().dataset
    batch, plain = rows.__getitems__([4, 7]), default_collate([rows[4], rows[7]])
    assert {name: value.tolist() for name, value in batch.items()} == {
        name: value.tolist() for name, value in plain.items()
    }


@pytest.mark.parametrize("noise", [-0.1, 1.1])
def test_noise_is_a_share(noise) -> None:
    with pytest.raises(ArgumentError, match=rf"Digits\.noise must be in \[0, 1\], got {noise}"):
        Digits(noise=noise)


def test_scikit_learn_may_be_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigurationError, match=r"data=digits must have scikit-learn.*lightning-select\[demo\]"):
        Digits().setup("fit")

"""Laws for every score, selector and weighting; a new file is found and held to them by itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import hydra.utils
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor

from lightning_select import BatchSelection, LossReweighting
from lightning_select.protocols import Score, SelectionContext, Selector, Weighting
from lightning_select.scores.loss import Loss
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import SIGNAL_NAMES
from lightning_select.types import Selection
from tests.fitting import fit, loader, same, trainer, weights_of
from tests.methods import CONFIGS, KINDS, METHODS, ROWS, class_of, field_defaults, make, signals
from tests.modules import Classifier
from tests.samplers.waits import Waits

EVERY = pytest.mark.parametrize(("kind", "name"), METHODS)


def run(kind: str, method: Any, given: Any, *, scores: Tensor | None = None, count: int = 5) -> Any:
    """Call a method on signals; a selection is returned with its weights spread over the rows."""
    if kind == "score":
        return method(given)
    if kind == "weighting":
        return method(given.loss)
    scores = given.loss if scores is None else scores
    context = SelectionContext(given, torch.Generator().manual_seed(3))
    return method(scores, count, context)


def test_there_are_methods_of_every_kind() -> None:
    assert {kind for kind, _ in METHODS} == set(KINDS)
    assert len(METHODS) >= 15


@EVERY
def test_it_fits_its_protocol(kind: str, name: str) -> None:
    method = make(kind, name)
    assert isinstance(method, {"score": Score, "selector": Selector, "weighting": Weighting}[kind])
    assert dataclasses.is_dataclass(method)
    assert class_of(kind, name).__dataclass_params__.frozen
    if kind != "weighting":
        assert method.needs <= set(SIGNAL_NAMES)


@EVERY
def test_its_config_builds_it_with_every_field_at_its_default(kind: str, name: str) -> None:
    config = OmegaConf.load(CONFIGS / kind / f"{name}.yaml")
    held = {key for key in config if key != "_target_"}
    assert held == {field.name for field in dataclasses.fields(class_of(kind, name)) if field.init}
    assert config._target_ == f"lightning_select.{kind}s.{name}.{class_of(kind, name).__name__}"
    built = hydra.utils.instantiate(config)
    assert field_defaults(built) == field_defaults(class_of(kind, name)())


@EVERY
def test_it_says_where_it_comes_from(kind: str, name: str) -> None:
    module = importlib.import_module(f"lightning_select.{kind}s.{name}")
    if name not in ("top_k",):
        assert "References:" in str(module.__doc__)
        assert "Deviations:" in str(module.__doc__)
    assert name in module.__all__
    assert len(inspect.getsource(module).splitlines()) <= 250


@EVERY
def test_it_survives_pickling(kind: str, name: str) -> None:
    method = class_of(kind, name)()
    assert field_defaults(pickle.loads(pickle.dumps(method))) == field_defaults(method)


@EVERY
def test_permuting_the_rows_permutes_the_result(kind: str, name: str) -> None:
    method, given = make(kind, name), signals()
    order = torch.randperm(ROWS)
    plain, moved = run(kind, method, given), run(kind, method, given.take(order))
    if kind != "selector":
        torch.testing.assert_close(moved, plain[order])
    elif not draws(method, given):
        assert set(order[moved.index].tolist()) == set(plain.index.tolist())


def draws(selector: Any, given: Any) -> bool:
    """Does the choice depend on the generator?"""
    seeds = (torch.Generator().manual_seed(seed) for seed in range(6))
    chosen = {tuple(selector(given.loss, 5, SelectionContext(given, g)).index.tolist()) for g in seeds}
    return len(chosen) > 1


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(kind: str, name: str, dtype: torch.dtype) -> None:
    given = signals()
    cast = {key: getattr(given, key).to(dtype) for key in given.measured if getattr(given, key).is_floating_point()}
    result = run(kind, make(kind, name), dataclasses.replace(given, **cast))
    if isinstance(result, Selection):
        assert result.index.dtype == torch.int64
        assert result.index.shape == (5,)
    else:
        assert result.is_floating_point()
        assert result.isfinite().all()


@EVERY
@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(kind: str, name: str, rows: int) -> None:
    method = class_of(kind, name)() if name != "reducible_loss" else make(kind, name)
    result = run(kind, method, signals(rows), count=1)
    assert (result.index if isinstance(result, Selection) else result).shape == (
        (1,) if kind == "selector" else (rows,)
    )


@EVERY
def test_rows_that_are_all_alike(kind: str, name: str) -> None:
    given = signals(1)
    alike = given.take(torch.zeros(ROWS, dtype=torch.int64))
    result = run(kind, make(kind, name), alike)
    if isinstance(result, Selection):
        assert result.index.shape == (5,)
        assert result.weight is None or torch.allclose(result.weight, result.weight[0].expand(5))
    else:
        assert (result == result[0]).all()
        assert kind == "score" or result[0] > 0


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_row_that_is_not_finite_harms_no_other(kind: str, name: str, bad: float) -> None:
    given, method = signals(), make(kind, name)
    if kind == "selector":
        scores = given.loss.clone()
        scores[4] = -torch.inf  # what the callback makes of any score that is not finite
        result = run(kind, method, given, scores=scores)
        assert 4 not in result.index.tolist()
        assert result.weight is None or result.weight.isfinite().all()
        return
    if kind == "weighting":
        losses = given.loss.clone()
        losses[4] = bad
        callback: Any = LossReweighting(method)
        callback._trainer, callback.total_steps = SimpleNamespace(global_step=0), 10
        weights = callback.weigh(losses)
        assert weights[4] == 0
        assert weights.isfinite().all()
        assert float(weights.sum()) == pytest.approx(ROWS - 1, rel=1e-4)
        return
    spoilt = {key: getattr(given, key).clone() for key in given.measured if getattr(given, key).is_floating_point()}
    for value in spoilt.values():
        value[4] = bad
    result = run(kind, method, dataclasses.replace(given, **spoilt))
    others = torch.arange(ROWS) != 4
    torch.testing.assert_close(result[others], run(kind, method, given)[others])


@pytest.mark.parametrize("name", [name for kind, name in METHODS if kind == "selector"])
@pytest.mark.parametrize("count", [1, 5, ROWS])
def test_a_selector_returns_the_count_it_was_asked_for(name: str, count: int) -> None:
    selector, given = make("selector", name), signals()
    result = run("selector", selector, given, count=count)
    assert result.index.shape == (count,)
    assert int(result.index.min()) >= 0
    assert int(result.index.max()) < ROWS
    if not selector.with_replacement:
        assert len(set(result.index.tolist())) == count


@pytest.mark.parametrize("name", [name for kind, name in METHODS if kind == "weighting"])
def test_a_weighting_is_detached_and_never_all_zero(name: str) -> None:
    weights = make("weighting", name)(signals().loss.requires_grad_())
    assert not weights.requires_grad
    assert (weights >= 0).all()
    assert weights.sum() > 0


def waits_in_steady_steps(*callbacks: Any) -> list[str]:
    """What a fit waits for between the third and the eleventh step; checks and logs are not due then."""
    import lightning.pytorch as pl

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                self.mode = Waits(lists=False)  # a loader hands lists out as well
                self.mode.__enter__()
            if trainer.global_step == 11:
                self.mode.__exit__(None, None, None)

    watch = Watch()
    fit(Classifier, *callbacks, watch, log_every_n_steps=1000, max_epochs=3, data=loader(rows=96, size=ROWS))
    return watch.mode.seen


def test_the_watcher_sees_waits() -> None:
    assert "aten._local_scalar_dense.default" in waits_in_steady_steps(
        LossReweighting(lambda losses: losses * losses.sum().item())
    )


@EVERY
def test_law_7_a_steady_step_waits_for_nothing_more(kind: str, name: str) -> None:
    method = make(kind, name)
    if name == "reducible_loss":
        method = ReducibleLoss(torch.zeros(96))
    callback = {
        "score": lambda: BatchSelection(method, TopK(), keep=0.5),
        "selector": lambda: BatchSelection(Loss(), method, keep=0.5),
        "weighting": lambda: LossReweighting(method),
    }[kind]()
    assert sorted(waits_in_steady_steps(callback)) == sorted(waits_in_steady_steps())


@EVERY
def test_it_trains_under_autocast_and_resumes(kind: str, name: str, tmp_path) -> None:
    def callback() -> Any:
        method = ReducibleLoss(torch.zeros(48)) if name == "reducible_loss" else make(kind, name)
        if kind == "weighting":
            return LossReweighting(method)
        return BatchSelection(*((method, TopK()) if kind == "score" else (Loss(), method)), keep=0.5)

    data = loader(shuffle=False)
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    straight = fit(Classifier, callback(), keep, data=data, precision="bf16-mixed", enable_checkpointing=True)
    second = trainer(callback(), precision="bf16-mixed")
    second.fit(Classifier(), data, ckpt_path=tmp_path / "epoch=0.ckpt")
    assert second.global_step == straight.global_step
    assert same(weights_of(straight), weights_of(second))

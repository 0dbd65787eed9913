"""One run of a comparison: one method on one seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from lightning_select.app.building import build_callbacks, build_data, build_model, build_trainer
from lightning_select.app.compare.budget import check_steps
from lightning_select.app.compare.counting import counted_rows
from lightning_select.app.compare.equal_cost import is_baseline
from lightning_select.app.compare.fairness import Fingerprint
from lightning_select.app.compare.loaders import pin_order, share_sizes, train_owner
from lightning_select.app.compare.recorder import Point, Recorder, metric_of_test
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.schedules import SharedEpochs, steps_of_epoch
from lightning_select.app.fit import has_test
from lightning_select.callbacks.base import SelectionCallback
from lightning_select.callbacks.selection_report import SelectionReport
from lightning_select.errors import ConfigurationError

__all__ = ["run_folder", "train_one"]

_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 1,  # shows what validation logs; Lightning keeps it from the random numbers of training
}


def train_one(
    config: DictConfig,
    method: str,
    seed: int,
    budget: Mapping[str, Any],
    report: Callable[[Point], None] | None = None,
    folder: Path | None = None,
    uniform: Run | None = None,
    *,
    on_rows: bool = False,
) -> Run:
    """Train and test one method on one seed.

    The initial weights and the order of rows depend on the seed alone, whatever the method draws.

    Args:
        config: The config of the method.
        method: Its name.
        seed: The seed.
        budget: Arguments of the Trainer that replace those of the config.
        report: Is told of every evaluation.
        folder: Root folder of the Trainer, where callbacks of the user's may write; ``None`` leaves it to the config.
        uniform: That run of uniform on the same seed, whose batches at evaluation and whose epochs, for a schedule of
            the learning rate, the run is to share; ``None`` leaves both as they are.
        on_rows: Write a report on the rows into ``folder``; its time is no part of the run's.

    Raises:
        RowIdError: A report is asked for, and the loader does not tell which rows a batch holds.
        ManualStepsError: The budget was told in epochs, and the module optimises by hand.
        ConfigurationError: The Trainer would use several processes, or validation logs no such metric.
    """
    settings = config.compare
    seed_everything(seed, workers=True, verbose=False)
    data = build_data(config)
    seed_everything(seed, workers=True, verbose=False)
    model = _model_of(config, method, budget)
    callbacks = build_callbacks(config)
    rows = [SelectionReport(folder, title=f"{method}, seed {seed}", name="rows_of_run")] if on_rows and folder else []
    fingerprint = Fingerprint(seed)
    pin_order(train_owner(data, model), seed, fingerprint.watch)
    evaluated = share_sizes(data, model, uniform.evaluated if uniform else "")
    with counted_rows(*_counted_kinds(model, callbacks)) as count:
        count.scoring = not rows or any(isinstance(callback, SelectionCallback) for callback in callbacks)
        recorder = Recorder(settings.metric, count, settings.flag_key, report, _seconds_of(rows))
        place = {} if folder is None else {"default_root_dir": str(folder)}
        watched = [recorder, *rows, *callbacks, *_epochs_of(uniform), fingerprint]
        trainer = build_trainer(config, watched, {**_QUIET, **budget, **place})
        if trainer.world_size != 1:
            raise ConfigurationError(f"task=compare must train on one device, got {trainer.world_size}.")
        trainer.fit(model, datamodule=data)
    final, final_metric = _final(trainer, model, data, recorder, settings)
    return Run(
        method=method,
        seed=seed,
        final=final,
        final_metric=final_metric,
        steps=trainer.global_step,
        batches=recorder.batches,
        samples=count.rows,
        trained=count.trained,
        seconds=recorder.seconds,
        rows_per_step=recorder.rows_per_step(trainer.global_step),
        flagged_share=recorder.flagged_share,
        train_rows=fingerprint.train_rows,
        drawn=fingerprint.order,
        validated=fingerprint.validated,
        evaluated=evaluated(),
        epoch_steps=steps_of_epoch(trainer),
        points=tuple(recorder.points),
    )


def _model_of(config: DictConfig, method: str, budget: Mapping[str, Any]) -> Any:
    model = build_model(config)
    if not is_baseline(method):  # whose steps are those that the Trainer counted for uniform
        check_steps(config, budget, model)
    return model


def _final(trainer: Any, model: Any, data: Any, recorder: Recorder, settings: Any) -> tuple[float, str]:
    """The final metric and its name: from a test where there is one, or else the end of the curve."""
    if not recorder.points:
        raise ConfigurationError("task=compare must evaluate at least once, got no validation. Set val_check_interval.")
    tested = None
    if has_test(model, data):
        trainer.test(model, datamodule=data, verbose=False)
        tested = metric_of_test(trainer, settings.metric, settings.final_metric)
    return tested or (recorder.points[-1].value, settings.metric)


def _counted_kinds(model: Any, callbacks: list[Any]) -> list[type]:
    """Classes of the module and of modules that it is compared with."""
    references = [getattr(getattr(callback, "score", None), "reference", None) for callback in callbacks]
    return [type(model), *(type(reference) for reference in references if isinstance(reference, torch.nn.Module))]


def _epochs_of(uniform: Run | None) -> list[SharedEpochs]:
    """What steps schedules by epochs of uniform, where it has any."""
    return [SharedEpochs(uniform.epoch_steps)] if uniform is not None and uniform.epoch_steps else []


def run_folder(folder: Path, method: str, seed: int) -> Path:
    """Folder for what callbacks of one run write, such as a report on the rows."""
    name = re.sub(r"[^\w.=-]+", "_", method).strip("_")
    if name != method:  # others may be changed to the same
        name += f".{hashlib.blake2b(repr(method).encode(), digest_size=3).hexdigest()}"
    return folder / "reports" / f"{name}-{seed}"


def _seconds_of(reports: list[SelectionReport]) -> Callable[[], float]:
    """Seconds that reports on rows have taken so far."""
    return lambda: sum(report.clock.seconds.get(report, 0.0) for report in reports)

"""The rows of the matrix that one process can run: what of Lightning and torch is told."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import pytorch_lightning
from lightning.pytorch import callbacks as theirs

from tests.support import fits, modules
from tests.support.fits import Cell
from tests.support.modules import EPOCHS, Net


@dataclass(frozen=True, eq=False)
class Feature:
    """Something that Lightning or torch can be told.

    Args:
        name: What it is called on the page.
        section: Under which heading it is.
        trainer: What the Trainer is told.
        callbacks: Makes callbacks of Lightning's.
        module: Makes the module.
        data: From a cell to what ``fit`` gets of data.
        run: Fits by a cell; returns the Trainer that did.
        warns: What Lightning or torch warns of, with us and without.
        library: The namespace of the Trainer.
        slow: Takes more than a few seconds.
        exact: Is training with nothing but a listener bit for bit what it is without, or up to rounding?
        launch: How its processes are begun; empty where this one is enough.
        there: Does the installed Lightning have it, with what it needs?
    """

    name: str
    section: str
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    module: Callable[[], Any] = Net
    data: Callable[[Cell], dict[str, Any]] = fits.one_loader
    run: Callable[[Cell], Any] = fits.fit
    warns: str = ""
    library: Any = pl
    slow: bool = False
    launch: str = ""
    exact: bool = True
    there: bool = True


def _old_net() -> Any:
    class OldNet(modules.Steps, pytorch_lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.build()

    return OldNet()


TRAINING, PRECISION, DATA, FLAGS, OTHERS = "Training", "Precision", "Data", "Trainer flags", "Lightning's own tools"
HOME, STRATEGIES = "Namespaces", "Strategies"


FEATURES = (
    Feature("one device", STRATEGIES),
    Feature("DeepSpeed", STRATEGIES, run=fits.deep_speed),
    Feature("accumulate_grad_batches=2", TRAINING, {"accumulate_grad_batches": 2}),
    Feature(
        "GradientAccumulationScheduler",
        TRAINING,
        callbacks=lambda: [theirs.GradientAccumulationScheduler({0: 1, 1: 2})],
    ),
    Feature("gradient_clip_val, by norm", TRAINING, {"gradient_clip_val": 0.05}),
    Feature("gradient_clip_val, by value", TRAINING, {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}),
    Feature("configure_gradient_clipping overridden", TRAINING, module=modules.Clipping),
    Feature("manual optimisation, returning sample_loss", TRAINING, module=modules.Manual),
    Feature("manual optimisation, with a selection_step", TRAINING, module=modules.ManualWithStep),
    Feature("two optimisers, with a selection_step", TRAINING, module=modules.TwoOptimizers),
    Feature("LBFGS", TRAINING, module=modules.Quasi),
    Feature("gradient checkpointing", TRAINING, module=modules.Checkpointed),
    Feature("module that logs step and epoch", TRAINING, module=modules.Logging),
    Feature("torch.compile(module), eager", TRAINING, run=fits.compiled("eager"), warns="torch.jit", slow=True),
    Feature("torch.compile(module), aot_eager", TRAINING, run=fits.compiled("aot_eager"), warns="torch.jit", slow=True),
    Feature(
        "torch.compile(module), inductor",
        TRAINING,
        run=fits.compiled("inductor"),
        warns="torch.jit",
        slow=True,
        exact=False,
    ),
    Feature("module.compile()", TRAINING, run=fits.compiled_in_place, warns="torch.jit", slow=True),
    Feature("torch.compile of the network inside", TRAINING, run=fits.compiled_network, slow=True),
    Feature("sync_batchnorm, one device", TRAINING, {"sync_batchnorm": True}, module=modules.Normed),
    Feature("32-true", PRECISION, {"precision": "32-true"}),
    Feature("bf16-mixed", PRECISION, {"precision": "bf16-mixed"}),
    Feature("16-mixed", PRECISION, {"precision": "16-mixed"}, warns="AMP with fp16 is not supported on CPU"),
    Feature("bf16-true", PRECISION, {"precision": "bf16-true"}),
    Feature("64-true", PRECISION, {"precision": "64-true"}),
    Feature("LightningDataModule", DATA, data=fits.data_module),
    Feature("persistent workers", DATA, data=fits.workers),
    Feature("dict of loaders", DATA, module=modules.Several, data=fits.as_dict),
    Feature("list of loaders", DATA, module=modules.Several, data=fits.as_list),
    Feature("CombinedLoader, max_size_cycle", DATA, module=modules.Several, data=fits.combined("max_size_cycle")),
    Feature("CombinedLoader, min_size", DATA, module=modules.Several, data=fits.combined("min_size")),
    Feature("CombinedLoader, max_size", DATA, module=modules.Several, data=fits.combined("max_size")),
    Feature("CombinedLoader, sequential", DATA, data=fits.combined("sequential")),
    Feature("IterableDataset", DATA, data=fits.flow),
    Feature("validation, val_check_interval=0.5", FLAGS, {"val_check_interval": 0.5}, data=fits.with_validation),
    Feature("validation, val_check_interval=2", FLAGS, {"val_check_interval": 2}, data=fits.with_validation),
    Feature(
        "check_val_every_n_epoch=None",
        FLAGS,
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        data=fits.with_validation,
    ),
    Feature("limit_train_batches=2", FLAGS, {"limit_train_batches": 2}),
    Feature("limit_train_batches=0.5", FLAGS, {"limit_train_batches": 0.5}),
    Feature("limit_val_batches=1", FLAGS, {"limit_val_batches": 1}, data=fits.with_validation),
    Feature("overfit_batches=2", FLAGS, {"overfit_batches": 2}),
    Feature("fast_dev_run", FLAGS, {"fast_dev_run": True}),
    Feature(
        "reload_dataloaders_every_n_epochs=1", FLAGS, {"reload_dataloaders_every_n_epochs": 1}, data=fits.data_module
    ),
    Feature("barebones", FLAGS, {"barebones": True}, warns="You are trying to `self.log\\(\\)`"),
    Feature("detect_anomaly", FLAGS, {"detect_anomaly": True}),
    Feature("inference_mode=False", FLAGS, {"inference_mode": False}, data=fits.with_validation),
    Feature("deterministic", FLAGS, {"deterministic": True}),
    Feature("profiler='simple'", FLAGS, {"profiler": "simple"}),
    Feature("max_time", FLAGS, {"max_time": "00:01:00:00"}),
    Feature("max_steps", FLAGS, {"max_steps": 5, "max_epochs": -1}),
    Feature("min_epochs beyond max_steps", FLAGS, {"max_steps": 2, "min_epochs": 2}),
    Feature("ModelCheckpoint and resume amid an epoch", OTHERS, run=fits.resumed),
    Feature(
        "EarlyStopping",
        OTHERS,
        callbacks=lambda: [theirs.EarlyStopping("val_loss", stopping_threshold=1e9)],
        data=fits.with_validation,
    ),
    Feature(
        "LearningRateMonitor",
        OTHERS,
        {"logger": True},
        callbacks=lambda: [theirs.LearningRateMonitor()],
        warns="`tensorboardX` has been removed",
    ),
    Feature(
        "ModelSummary and RichProgressBar",
        OTHERS,
        {"enable_progress_bar": True, "enable_model_summary": True},
        callbacks=lambda: [theirs.RichModelSummary(), theirs.RichProgressBar()],
        there=importlib.util.find_spec("rich") is not None,
    ),
    Feature(
        "WeightAveraging (EMA)",
        OTHERS,
        callbacks=lambda: [theirs.EMAWeightAveraging(decay=0.5)],
        there=hasattr(theirs, "EMAWeightAveraging"),
    ),
    Feature(
        "StochasticWeightAveraging",
        OTHERS,
        {"max_epochs": EPOCHS + 1},
        callbacks=lambda: [theirs.StochasticWeightAveraging(0.05, swa_epoch_start=1)],
    ),
    Feature("Tuner.lr_find", OTHERS, run=fits.lr_find),
    Feature("Tuner.scale_batch_size", OTHERS, data=fits.with_validation_module, run=fits.scale_batch_size),
    Feature("lightning.pytorch", HOME),
    Feature("pytorch_lightning", HOME, module=_old_net, library=pytorch_lightning),
)

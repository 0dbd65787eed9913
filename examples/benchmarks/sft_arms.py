"""The arms that `uds_sft` compares: what they do with a candidate batch, one fit of each, their rates, and figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from common import QUIET, InMemory, loader
from fits import ORDER
from lightning.pytorch import Callback, Trainer
from sft_lm import LanguageModel, Size, pretrained
from sft_pool import Pool
from sft_tokens import IGNORED, Tokenizer
from torch import Tensor

from lightning_select import BatchSelection, Holdout
from lightning_select.app.compare.counting import counted_rows
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import Signals

__all__ = [
    "ALL",
    "DIVERSE",
    "GREEDY",
    "MAX_LOSS",
    "RANDOM",
    "RHO",
    "ROOT",
    "ROWS",
    "SECONDS",
    "SELECTIONS",
    "UDS",
    "Bed",
    "Outcome",
    "Scale",
    "fit",
]

ALL, RANDOM = "all data", "random subset"
ROWS, SECONDS = "random, as many rows as uds", "random, as many seconds as uds"
MAX_LOSS, RHO, UDS, DIVERSE = "max_loss", "rho_loss", "uds", "diversity alone"
GREEDY, ROOT = "uds, greedy in the batch", "uds, norm by root of length"
CANDIDATES = 32


def nothing(signals: Signals) -> Tensor:
    """A score that is the same for all rows, so that the selector alone decides."""
    return torch.zeros_like(signals.need("loss", "nothing"))


SELECTIONS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    MAX_LOSS: lambda kept: (Loss(), TopK()),
    # One epoch on each half, in batches as small as the kept ones: three, the default, would cost three times as much.
    RHO: lambda kept: (ReducibleLoss(Holdout(epochs=1, batch_size=kept)), TopK()),
    UDS: lambda kept: (NuclearNorm(), Diverse()),
    GREEDY: lambda kept: (NuclearNorm(), Diverse(greedy=True)),
    DIVERSE: lambda kept: (nothing, Diverse()),
    ROOT: lambda kept: (NuclearNorm(length="sqrt"), Diverse()),
}


@dataclass(frozen=True)
class Scale:
    """How large everything is; ``rows`` are those to train on, to choose rates on and to test on."""

    rows: tuple[int, int, int] = (3200, 64, 192)
    length: int = 72
    vocabulary: int = 1024
    size: Size = field(default_factory=Size)
    general: tuple[float, int] = (3e-3, 400)
    """Rate and steps of pretraining."""


class Bed:
    """All that the arms of one seed share: rows, tokens and the pretrained weights."""

    def __init__(self, pool: Pool, tokenizer: Tokenizer, text: Tensor, scale: Scale, seed: int) -> None:
        self.pool, self.scale, self.seed, self.vocabulary = pool, scale, seed, tokenizer.size
        self._text = text
        split = pool.split(seed, scale.rows)
        self.train, self.validation, self.test = (
            InMemory(*tokenizer.rows([pool.pairs[int(row)] for row in rows], scale.length), rows)
            for rows in (split.train, split.validation, split.test)
        )

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        return pretrained(self.vocabulary, self._text, self.scale.size, *self.scale.general, self.seed)

    def module(self, rate: float) -> LanguageModel:
        module = LanguageModel(self.vocabulary, self.scale.length, self.scale.size, rate)
        module.load_state_dict(self.weights)
        return module


@dataclass(frozen=True)
class Outcome:
    """One fit. Rows are those through the model: scored, trained on, or either for a reference model.

    ``length`` and ``loss`` are means over what was trained on, in tokens and before the step that it made; ``repeats``
    is the share of it that was a near copy of what the run had been trained on before.
    """

    test: float
    start: float
    validation: float
    backward: int
    rows: int
    seconds: float
    length: float
    loss: float
    repeats: float


class Watch(Callback):
    """What a run is trained on."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self._lengths: list[Tensor] = []
        self._losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(batch[2])
        self._lengths.append((batch[1] != IGNORED).sum(dim=1).float().mean())
        self._losses.append(outputs["loss"].detach())

    @property
    def means(self) -> tuple[float, float]:
        return float(torch.stack(self._lengths).mean()), float(torch.stack(self._losses).mean())


def fit(bed: Bed, method: str, kept: int, rate: float, steps: int) -> Outcome:
    """Fine-tune once; weights at the start and the order of rows depend on the seed alone."""
    module, watch, callbacks = bed.module(rate), Watch(), []
    start = module.held_out_loss(bed.test)
    if method in SELECTIONS:
        callbacks.append(BatchSelection(*SELECTIONS[method](kept), keep=kept, seed=bed.seed))
    batch = CANDIDATES if method in SELECTIONS or method == ALL else kept
    torch.manual_seed(bed.seed)
    started = time.process_time()
    with counted_rows(LanguageModel) as count:
        trainer = Trainer(**QUIET, max_epochs=-1, max_steps=steps, callbacks=[*callbacks, watch])
        trainer.fit(module, loader(bed.train, batch, ORDER + bed.seed))
    seconds = time.process_time() - started
    module.eval()
    seen = torch.cat(watch.rows)
    return Outcome(
        module.held_out_loss(bed.test),
        start,
        module.held_out_loss(bed.validation),
        len(seen),
        count.rows,
        seconds,
        *watch.means,
        bed.pool.repeats(seen),
    )

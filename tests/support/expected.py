"""What is to come of every cell. Where nothing is said here, it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.columns import CALLBACKS, PEER_REVIEW, SAMPLERS, Column
from tests.support.features import FEATURES, Feature
from tests.support.launches import LAUNCHED, ROOT, SHARD_PARTS, SHARD_ROOT, TENSORS
from tests.support.modules import Manual, Net, TwoOptimizers

ALL = (*FEATURES, *LAUNCHED)


@dataclass(frozen=True)
class Outcome:
    """What is to come of a cell.

    Args:
        kind: ``works``; ``refused`` by us, with an error of ours, before anything is trained; ``not by Lightning``
            (or torch), which refuses it without us too; ``n.a.``, where the two have nothing to do with each other.
        words: Regular expression of what is said.
        reason: In short, for the page.
        proof: Makes the module that Lightning refuses as well; ``None`` is that of the feature.
    """

    kind: str
    words: str = ""
    reason: str = ""
    proof: Callable[[], Any] | None = None


WORKS = Outcome("works")


def refused(words: str, reason: str) -> Outcome:
    return Outcome("refused", words, reason)


def theirs(words: str, reason: str, proof: Callable[[], Any] | None = None) -> Outcome:
    return Outcome("not by Lightning", words, reason, proof)


def absent(reason: str) -> Outcome:
    return Outcome("n.a.", reason=reason)


OWN_MODULE = absent("PeerReview is the module itself, with steps, optimisers and batches of its own")
BY_HAND = "PeerReview optimises by hand, and Lightning does not do this for modules that do; PeerReview"
ALONE = refused(
    "must be the sampler of the only training loader, got 2 loaders",
    "a sampler of ours draws for the only training loader; ConcatDataset puts datasets into one",
)
MANUAL_WEIGHTS = refused(
    "must leave its loss to be weighted by the weights of .*, got manual optimisation",
    "weights cannot reach a loss that the step itself has used",
)
NO_IDS = refused(
    "Row ids must come from the loader's sampler or from the batch, got neither: there are 2 training loaders",
    "rows of several loaders are numbered each for themselves; ConcatDataset puts datasets into one",
)
_MANUAL = {"BatchSelection, weights": MANUAL_WEIGHTS, "LossReweighting": MANUAL_WEIGHTS, "InfoBatch": MANUAL_WEIGHTS}
_SEVERAL = {"SelectionReport": NO_IDS, "samplers": ALONE, "PeerReview": OWN_MODULE}
_OF_A_MODULE = {"PeerReview": OWN_MODULE}
_STEP = refused(
    "must show one loss per row of the batch, got manual optimisation",
    "a step that steps the optimiser cannot be run to score; a `selection_step` can",
)
_SEQUENTIAL = theirs('does not support the `CombinedLoader\\(mode="sequential"\\)` mode', "Lightning does not train so")
_CONFIGURE = {
    "PeerReview": theirs(
        "you are required to override the `configure_model\\(\\)` hook",
        "ModelParallelStrategy takes modules that split themselves, in `configure_model`",
        Net,
    )
}
_WHOLE_MODELS = {
    "PeerReview": refused("must have both models whole on every device", "each model scores the pairs of the other")
}

EXPECTED: Mapping[str, Mapping[str, Outcome]] = {
    "accumulate_grad_batches=2": {
        "PeerReview": theirs(
            "Automatic gradient accumulation is not supported for manual optimization",
            f"{BY_HAND}(accumulate=) does",
            Manual,
        )
    },
    "GradientAccumulationScheduler": {
        "PeerReview": theirs(
            "Automatic gradient accumulation and the `GradientAccumulationScheduler` is not supported",
            f"{BY_HAND}(accumulate=) does",
            Manual,
        )
    },
    "gradient_clip_val, by norm": {
        "PeerReview": theirs(
            "Automatic gradient clipping is not supported for manual optimization", f"{BY_HAND}(clip=) does", Manual
        )
    },
    "gradient_clip_val, by value": {
        "PeerReview": theirs(
            "Automatic gradient clipping is not supported for manual optimization", f"{BY_HAND}(clip=) does", Manual
        )
    },
    "configure_gradient_clipping overridden": _OF_A_MODULE,
    "manual optimisation, returning sample_loss": _MANUAL | {"BatchSelection": _STEP, "BatchSelection, weights": _STEP},
    "manual optimisation, with a selection_step": _MANUAL | _OF_A_MODULE,
    "two optimisers, with a selection_step": _MANUAL,
    "LBFGS": _OF_A_MODULE,
    "gradient checkpointing": _OF_A_MODULE,
    "module that logs step and epoch": _OF_A_MODULE,
    "torch.compile of the network inside": _OF_A_MODULE,
    "sync_batchnorm, one device": _OF_A_MODULE,
    "dict of loaders": _SEVERAL,
    "list of loaders": _SEVERAL,
    "CombinedLoader, max_size_cycle": _SEVERAL,
    "CombinedLoader, min_size": _SEVERAL,
    "CombinedLoader, max_size": _SEVERAL,
    "CombinedLoader, sequential": {
        **dict.fromkeys(["callbacks", "samplers"], _SEQUENTIAL),
        "PeerReview": OWN_MODULE,
    },
    "IterableDataset": {
        "SelectionReport": refused(
            "SelectionReport must know the length of the dataset",
            "such rows have neither number nor count; `SelectionReport(rows=..., id_key=...)` is told both",
        ),
        "samplers": absent("torch takes no sampler for an IterableDataset"),
        "PeerReview": OWN_MODULE,
    },
    "overfit_batches=2": {
        "samplers": refused(
            "must draw the rows itself, got Trainer\\(overfit_batches=2\\)",
            "Lightning would read the same rows in order; `limit_train_batches` leaves the sampler",
        ),
        "PeerReview": refused(
            "PairDraws must draw the rows itself, got Trainer\\(overfit_batches=2\\)",
            "Lightning would read the same rows in order; `limit_train_batches` leaves the sampler",
        ),
    },
    "EarlyStopping": _OF_A_MODULE,
    "StochasticWeightAveraging": {
        "PeerReview": theirs(
            "SWA currently works with 1 `optimizer`", "Lightning averages for one optimiser", TwoOptimizers
        )
    },
    "Tuner.lr_find": {
        "PeerReview": theirs(
            "learning rate finder only works with single optimizer",
            "Lightning looks for the rate of one optimiser",
            TwoOptimizers,
        )
    },
    "pytorch_lightning": {"PeerReview": absent("PeerReview is a module of lightning.pytorch")},
    "DeepSpeed": {
        **dict.fromkeys(
            ["callbacks", "samplers"],
            refused(
                "must train by a strategy that it was tested with, got DeepSpeedStrategy",
                "nobody has run it with ours, and what is not tested is not claimed; FSDP splits weights too",
            ),
        ),
    }
    | _WHOLE_MODELS,
    "sync_batchnorm": {
        **dict.fromkeys(
            ["callbacks", "samplers"],
            theirs(
                "SyncBatchNorm layers only work with GPU modules",
                "torch has it on GPUs alone, and it was not run on two of them",
            ),
        ),
        "PeerReview": OWN_MODULE,
    },
    "FSDP": _WHOLE_MODELS,
    "FSDP, parts wrapped": _WHOLE_MODELS,
    SHARD_PARTS: _CONFIGURE,
    SHARD_ROOT: _CONFIGURE,
    ROOT: _CONFIGURE,
    TENSORS: {
        **dict.fromkeys(
            ["callbacks", "samplers"],
            refused(
                "must train with rows of its own on every rank, got ModelParallelStrategy with 2 ranks",
                "ranks that compute the same rows together would be given different ones",
            ),
        ),
        **_CONFIGURE,
    },
}


def expected(feature: Feature, column: Column) -> Outcome:
    """The outcome of one cell."""
    row = EXPECTED.get(feature.name, {})
    group = "samplers" if column in SAMPLERS else "callbacks" if column in CALLBACKS else ""
    return row.get(column.name, row.get(group, WORKS))


def known_names() -> set[str]:
    """What a row may speak of."""
    return {"callbacks", "samplers", PEER_REVIEW.name, *(column.name for column in (*CALLBACKS, *SAMPLERS))}


REMARKS: Mapping[str, str] = {
    "16-mixed": "a processor has none, so Lightning takes bf16-mixed in its place; on a GPU `PeerReview` refuses "
    "scaled gradients",
    "torch.compile(module), inductor": "the graph breaks where the loss is watched, so a `SelectionReport` leaves "
    "training as it is up to rounding",
    "DeepSpeed": "by a stand-in of that name, since the package needs a GPU",
    "FSDP": "two processes on a CPU by gloo, with a strategy derived from Lightning's, which itself asks for a GPU; "
    "the rows chosen are those of DDP",
    "FSDP, parts wrapped": "`auto_wrap_policy={torch.nn.Linear}`",
    SHARD_PARTS: "`fully_shard` of some layers, of all of the module, or of both, in `configure_model`",
    "DDP, 2 nodes": "two launches over loopback, of one device each",
    "Tuner.lr_find": "Lightning takes all callbacks away for the trial steps of its tuner, so these train on whole "
    "batches; the fit after them is ours",
    "Tuner.scale_batch_size": "Lightning takes all callbacks away for the trial steps of its tuner, so these train on "
    "whole batches; the fit after them is ours",
}
"""What is to be known of a feature besides."""

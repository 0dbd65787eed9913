"""Every reduction-style loss of torch with arguments for a batch of rows, and the slow way to weigh its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 5
CLASSES = 4


@dataclass(frozen=True)
class Case:
    """A loss: its function, a maker of arguments with the rows first, and arguments that every row shares."""

    name: str
    func: Callable[..., Tensor]
    make: Callable[[torch.Generator], dict[str, Any]]
    shared: Callable[[], dict[str, Any]] = dict
    rows_axis: int = 0
    mean_of_rows: bool = False

    def arguments(self, seed: int = 0) -> dict[str, Any]:
        made = self.make(torch.Generator().manual_seed(seed))
        return {key: v.requires_grad_() if isinstance(v, Tensor) and key in GRADS else v for key, v in made.items()}

    def call(self, arguments: dict[str, Any], reduction: str) -> Tensor:
        return self.func(**arguments, **self.shared(), reduction=reduction)

    def row(self, arguments: dict[str, Any], position: int) -> dict[str, Any]:
        cut = slice(position, position + 1)
        return {
            key: value[:, cut] if key == "log_probs" else value[cut] if isinstance(value, Tensor) else value
            for key, value in arguments.items()
        }

    def weighted(self, arguments: dict[str, Any], weights: Tensor, reduction: str) -> Tensor:
        """Loop over the rows: what each adds to the scalar, times its weight."""
        divisor = torch.tensor(1.0)
        if reduction != "sum":
            divisor = (self.call(arguments, "sum") / self.call(arguments, reduction)).detach()
        total = torch.zeros(())
        for position in range(ROWS):
            row = self.row(arguments, position)
            part = self.call(row, "mean") / ROWS if self.mean_of_rows and reduction == "mean" else None
            total = total + weights[position] * (self.call(row, "sum") / divisor if part is None else part)
        return total


GRADS = ("input", "input1", "input2", "anchor", "positive", "negative", "log_probs", "var", "linear_weight")


def _logits(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, generator=g)


def _classes(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, CLASSES, (ROWS, *shape), generator=g)


def _ignoring(g: torch.Generator, *shape: int) -> Tensor:
    target = _classes(g, *shape)
    return torch.where(torch.rand(target.shape, generator=g) < 0.3, -100, target)


def _signs(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 2, (ROWS, *shape), generator=g) * 2.0 - 1


def _weights() -> dict[str, Any]:
    return {"weight": torch.tensor([0.5, 1.0, 2.0, 3.0])}


def _weighed_pair(g: torch.Generator) -> dict[str, Any]:
    return {**_pair(g), "weight": 4 * torch.rand(ROWS, 3, generator=g)}


def _pair(g: torch.Generator) -> dict[str, Any]:
    return {"input": _logits(g, 3), "target": torch.rand(ROWS, 3, generator=g)}


CASES = [
    Case("cross_entropy", F.cross_entropy, lambda g: {"input": _logits(g, CLASSES), "target": _classes(g)}),
    Case("ce_weight", F.cross_entropy, lambda g: {"input": _logits(g, CLASSES), "target": _classes(g)}, _weights),
    Case(
        "ce_smooth_weight_ignore",
        F.cross_entropy,
        lambda g: {"input": _logits(g, CLASSES, 6), "target": _ignoring(g, 6)},
        lambda: {**_weights(), "label_smoothing": 0.2},
    ),
    Case("ce_pixels", F.cross_entropy, lambda g: {"input": _logits(g, CLASSES, 2, 3), "target": _classes(g, 2, 3)}),
    Case(
        "ce_probabilities",
        F.cross_entropy,
        lambda g: {"input": _logits(g, CLASSES), "target": _logits(g, CLASSES).softmax(-1)},
        lambda: {"label_smoothing": 0.1},
    ),
    Case("ce_ignore", F.cross_entropy, lambda g: {"input": _logits(g, CLASSES, 6), "target": _ignoring(g, 6)}),
    Case(
        "ce_ignore_2",
        F.cross_entropy,
        lambda g: {"input": _logits(g, CLASSES, 6), "target": _classes(g, 6)},
        lambda: {"ignore_index": 2},
    ),
    Case("nll", F.nll_loss, lambda g: {"input": _logits(g, CLASSES), "target": _classes(g)}, _weights),
    Case("mse", F.mse_loss, _pair),
    Case("l1", F.l1_loss, _pair),
    Case("huber", F.huber_loss, _pair, lambda: {"delta": 0.7}),
    Case("mse_by_number", F.mse_loss, lambda g: _weighed_pair(g)),
    Case("l1_by_number", F.l1_loss, lambda g: _weighed_pair(g)),
    Case("huber_by_number", F.huber_loss, lambda g: _weighed_pair(g), lambda: {"delta": 0.7}),
    Case("smooth_l1", F.smooth_l1_loss, _pair, lambda: {"beta": 0.7}),
    Case(
        "bce_logits", F.binary_cross_entropy_with_logits, _pair, lambda: {"pos_weight": torch.tensor([1.0, 2.0, 3.0])}
    ),
    Case(
        "bce",
        F.binary_cross_entropy,
        lambda g: {"input": torch.rand(ROWS, 3, generator=g), "target": torch.rand(ROWS, 3, generator=g)},
    ),
    Case("poisson", F.poisson_nll_loss, _pair, lambda: {"full": True}),
    Case(
        "gaussian",
        F.gaussian_nll_loss,
        lambda g: {**_pair(g), "var": torch.rand(ROWS, 3, generator=g) + 0.1},
    ),
    Case("kl", F.kl_div, lambda g: {"input": _logits(g, 3).log_softmax(-1), "target": _logits(g, 3).softmax(-1)}),
    Case(
        "kl_log",
        F.kl_div,
        lambda g: {"input": _logits(g, 3).log_softmax(-1), "target": _logits(g, 3).log_softmax(-1)},
        lambda: {"log_target": True},
    ),
    Case("soft_margin", F.soft_margin_loss, lambda g: {"input": _logits(g, 3), "target": _signs(g, 3)}),
    Case("hinge_embedding", F.hinge_embedding_loss, lambda g: {"input": _logits(g, 3), "target": _signs(g, 3)}),
    Case(
        "margin_ranking",
        F.margin_ranking_loss,
        lambda g: {"input1": _logits(g), "input2": _logits(g), "target": _signs(g)},
        lambda: {"margin": 0.4},
    ),
    Case(
        "cosine_embedding",
        F.cosine_embedding_loss,
        lambda g: {"input1": _logits(g, 6), "input2": _logits(g, 6), "target": _signs(g)},
    ),
    Case(
        "multi_margin", F.multi_margin_loss, lambda g: {"input": _logits(g, CLASSES), "target": _classes(g)}, _weights
    ),
    Case("multilabel_margin", F.multilabel_margin_loss, lambda g: {"input": _logits(g, 3), "target": _some_labels(g)}),
    Case(
        "multilabel_soft_margin",
        F.multilabel_soft_margin_loss,
        lambda g: {"input": _logits(g, 3), "target": torch.randint(0, 2, (ROWS, 3), generator=g).float()},
    ),
    Case(
        "triplet",
        F.triplet_margin_loss,
        lambda g: {"anchor": _logits(g, 6), "positive": _logits(g, 6), "negative": _logits(g, 6)},
    ),
    Case(
        "triplet_distance",
        F.triplet_margin_with_distance_loss,
        lambda g: {"anchor": _logits(g, 6), "positive": _logits(g, 6), "negative": _logits(g, 6)},
    ),
    Case("ctc", F.ctc_loss, lambda g: _ctc(g), mean_of_rows=True),
]
if hasattr(F, "linear_cross_entropy"):
    CASES.append(
        Case(
            "linear_ce",
            F.linear_cross_entropy,
            lambda g: {"input": _logits(g, 6), "target": _classes(g)},
            lambda: {"linear_weight": LINEAR_WEIGHT},
        )
    )
LINEAR_WEIGHT = torch.linspace(-1, 1, CLASSES * 6).reshape(CLASSES, 6).requires_grad_()


def _some_labels(g: torch.Generator) -> Tensor:
    labels = torch.randint(0, 3, (ROWS, 1), generator=g)
    return torch.cat([labels, torch.full((ROWS, 2), -1)], dim=1)


def _ctc(g: torch.Generator) -> dict[str, Any]:
    return {
        "log_probs": torch.randn(9, ROWS, CLASSES, generator=g).log_softmax(-1),
        "targets": torch.randint(1, CLASSES, (ROWS, 3), generator=g),
        "input_lengths": torch.tensor([9, 8, 7, 9, 6]),
        "target_lengths": torch.tensor([3, 2, 1, 3, 2]),
    }

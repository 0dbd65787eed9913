"""LightningModules as people write them, with a batch for each; none of them knows of selection."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

ROWS, FEATURES, CLASSES, TOKENS, WORDS = 8, 6, 4, 5, 11
Pair = collections.namedtuple("Pair", ["x", "y"])


@dataclasses.dataclass
class Sample:
    x: Tensor
    y: Tensor
    source: str = "made"


class Base(pl.LightningModule):
    """A small classifier; the subclasses differ in what their step does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


class Classifier(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss


class OnlyBatch(Base):
    def training_step(self, batch):
        return {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)(self(batch[0]), batch[1]), "extra": 3}


class ByHand(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        log_p = torch.log_softmax(self(x), dim=-1)
        return -log_p.gather(1, y[:, None]).squeeze(1).sum() / len(x)


class NoneThenMean(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        return losses.mean()


class SumOverRows(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y, reduction="sum") / y.shape[0]


class Added(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self(x)
        loss = F.cross_entropy(z, y)
        loss += 0.3 * F.mse_loss(z, torch.zeros_like(z))
        return loss + 0.1 * (z - z.detach().roll(1, dims=1)).abs().mean()


class MetricAsLoss(Base):
    def __init__(self) -> None:
        super().__init__()
        self.loss = torchmetrics.MeanSquaredError()

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), F.one_hot(y, CLASSES).float())


class Tokens(Base):
    """A language model: logits flattened to [B*T], some labels ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, WORDS)

    def training_step(self, batch, batch_idx):
        labels = batch.pop("labels")
        hidden, _ = self.rnn(self.embed(batch["input_ids"]))
        return F.cross_entropy(self.head(hidden).view(-1, WORDS), labels.reshape(-1), ignore_index=-100)


class Pixels(Base):
    """Segmentation: logits [B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(8, CLASSES, 1)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.conv(batch["image"])), batch["mask"])


class Autoencoder(Base):
    """A variational autoencoder, which draws noise inside its step."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(FEATURES, 2 * 3), nn.Linear(3, FEATURES)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        mean, log_var = self.encode(x).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        error = F.mse_loss(self.decode(z), x, reduction="sum") / len(x)
        divergence = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp(), dim=1).mean()
        return error + 0.1 * divergence


class TwoViews(Base):
    """Contrastive learning: two views stacked to 2B rows, which act on each other."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        z = F.normalize(torch.cat([self(x), self(x * 1.1 + 0.2)]), dim=-1)
        similarity = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(x)))


class Penalised(Base):
    """A penalty on a weight matrix that happens to have as many rows as the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, ROWS), nn.Tanh(), nn.Linear(ROWS, CLASSES))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y) + 0.1 * self.net[0].weight.square().mean()


class Uncertain(Base):
    """Two tasks with learned weights: the loss is no linear combination of its terms."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self(x)
        losses = torch.stack([F.cross_entropy(z, y), torch.log(F.mse_loss(z, torch.ones_like(z)))])
        return (torch.exp(-self.log_scale) * losses + self.log_scale).sum()


class SampleLoss(Base):
    """The first way out: row losses beside the loss, from a step that nobody could read."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        losses = F.cross_entropy(self(x), y, reduction="none")
        return {"loss": losses @ torch.full((len(losses),), 1 / len(losses)), "sample_loss": losses}


class Opaque(torch.autograd.Function):
    """A fused kernel that returns a scalar."""

    @staticmethod
    def forward(ctx, logits, targets):
        with torch.enable_grad():
            inner = logits.detach().requires_grad_()
            loss = torch.logsumexp(inner, 1).add(inner.gather(1, targets[:, None])[:, 0], alpha=-1).div(len(inner))
            (ctx.gradient,) = torch.autograd.grad(torch.chunk(loss, 1)[0].cumsum(0)[-1], inner)
            return loss.cumsum(0)[-1].detach()

    @staticmethod
    def backward(ctx, grad):
        return ctx.gradient * grad, None


class Fused(Base):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return Opaque.apply(self(x), y)


class FusedWithStep(Fused):
    """The second way out."""

    def selection_step(self, batch):
        from lightning_select.signals.base import Signals

        x, y = batch
        logits = self(x)
        return Signals(loss=F.cross_entropy(logits, y, reduction="none"), logits=logits, targets=y)


class Manual(Base):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self(x), y))
        optimizer.step()


def features(seed: int = 0, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, FEATURES, generator=g), torch.randint(0, CLASSES, (rows,), generator=g)


def text(seed: int = 0, rows: int = ROWS) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (rows, TOKENS), generator=g)
    lengths = torch.randint(1, TOKENS + 1, (rows, 1), generator=g)
    return {"input_ids": words, "labels": torch.where(torch.arange(TOKENS) < lengths, words.roll(-1, 1), -100)}


def images(seed: int = 0, rows: int = ROWS) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    picture = torch.randn(rows, 3, 4, 4, generator=g)
    return {"image": picture, "mask": torch.randint(0, CLASSES, (rows, 4, 4), generator=g)}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A module and its batches. ``separate``: the loss of the batch is the mean of the losses of its rows alone."""

    module: Callable[[], Base]
    batch: Callable[..., Any] = features
    separate: bool = True

    @property
    def name(self) -> str:
        return self.module.__name__


SCENARIOS = [
    *(Scenario(m) for m in (Classifier, OnlyBatch, ByHand, NoneThenMean, SumOverRows, Added, MetricAsLoss, SampleLoss)),
    Scenario(Tokens, text),
    Scenario(Pixels, images),
    Scenario(Autoencoder, separate=False),
    Scenario(TwoViews, separate=False),
    Scenario(Penalised, separate=False),
    Scenario(Uncertain, separate=False),
]

"""What is trained in the cells: a module that anybody might have written, in the ways of training that there are."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_select.signals.base import Signals
from tests.modules import CLASSES, FEATURES

ROWS, SIZE, EPOCHS = 32, 8, 2


class Rows(Dataset[Any]):
    """Rows that know their place."""

    def __init__(self, rows: int = ROWS) -> None:
        g = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(rows, FEATURES, generator=g), torch.randint(0, CLASSES, (rows,), generator=g)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"x": self.x[row], "y": self.y[row], "index": row}


class Flow(IterableDataset[Any]):
    """The same rows without a place to ask for."""

    def __iter__(self) -> Any:
        rows = Rows()
        return (rows[row] for row in range(len(rows)))


def rows_loader(sampler: Any = None, rows: int = ROWS, **kwargs: Any) -> DataLoader[Any]:
    order = {"shuffle": True} if sampler is None else {"sampler": sampler}
    return DataLoader(Rows(rows), SIZE, **order, **kwargs)


class Steps:
    """What the modules of both namespaces do: a small classifier that says how often it was right."""

    def build(self) -> None:
        self.net: Any = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh())
        self.head: Any = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))

    def loss_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Loss of the batch, and (rows, attempts) what was right."""
        z = self(batch["x"].to(self.head.weight.dtype))  # type: ignore[operator]
        right = (z.argmax(dim=1) == batch["y"]).float().detach()
        return F.cross_entropy(z, batch["y"]), torch.stack([right, torch.ones_like(right)], dim=1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss, right = self.loss_of(batch)
        return {"loss": loss, "reward": right}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss_of(batch)[0])  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)  # type: ignore[attr-defined]


class Net(Steps, pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.build()


class Logging(Net):
    """One whose own curves are wanted: of the step and of the epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.log("train_loss", output["loss"], on_step=True, on_epoch=True)
        return output


class Normed(Net):
    """With BatchNorm, for ``sync_batchnorm``."""

    def build(self) -> None:
        super().build()
        self.net.append(nn.BatchNorm1d(8))


class Checkpointed(Net):
    """Computes its activations again in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.net, x, use_reentrant=False))


class Quasi(Net):
    """LBFGS calls the closure several times a step."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Clipping(Net):
    """Clips by a rule of its own."""

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")


class Manual(Net):
    """Optimises by hand, and returns the losses of its rows, for whoever learns from them."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = F.cross_entropy(self(batch["x"]), batch["y"], reduction="none")
        _, right = self.loss_of(batch)
        for optimizer in self.their_optimizers():
            optimizer.zero_grad()
        self.manual_backward(losses.mean())
        for optimizer in self.their_optimizers():
            optimizer.step()
        return {"sample_loss": losses.detach(), "reward": right}

    def their_optimizers(self) -> list[Any]:
        found: Any = self.optimizers()
        return found if isinstance(found, list) else [found]


class ManualWithStep(Manual):
    """The way out: a step of its own for selection."""

    def selection_step(self, batch: Any) -> Signals:
        z = self(batch["x"])
        return Signals(loss=F.cross_entropy(z, batch["y"], reduction="none"), logits=z, targets=batch["y"])


class TwoOptimizers(ManualWithStep):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net, self.head)]


class Several(Net):
    """Gets its rows from several loaders, as a dict or a list."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = [part for part in (batch.values() if isinstance(batch, dict) else batch) if part is not None]
        losses, rewards = zip(*map(self.loss_of, parts), strict=True)
        return {"loss": torch.stack(losses).mean(), "reward": rewards[0]}

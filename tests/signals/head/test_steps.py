"""Steps that are hard to follow up to their loss: every score is that of the logits, or an error says why."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection
from lightning_select.errors import ArgumentError
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse
from lightning_select.signals.head.reader import HeadReader
from tests.fitting import trainer

WORDS, WIDTH = 97, 16


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.shown: list[Any] = []

    def body(self, batch):
        return self.mix(self.embed(batch["x"]))[:, :-1]

    def logits(self, batch):
        return self.head(self.body(batch))

    def loss(self, logits, labels, **kwargs):
        return F.cross_entropy(logits.reshape(-1, WORDS), labels.reshape(-1), **kwargs)

    def training_step(self, batch, batch_idx):
        return self.loss(self.logits(batch), batch["y"][:, 1:])

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.shown = [batch]
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD([weight for weight in self.parameters() if weight.requires_grad], 0.1)


def batches(count: int = 4) -> list[dict[str, torch.Tensor]]:
    generator, made = torch.Generator().manual_seed(1), []
    for _ in range(count):
        x = torch.randint(0, WORDS, (6, 12), generator=generator)
        y = x.clone()
        y[:, :3] = -100
        made.append({"x": x, "y": y})
    return made


class Checked(NuclearNorm):
    """Compares every score with singular values of the logits that the module itself computes."""

    kinds: list[str] = []  # noqa: RUF012  # emptied by `fitted`
    module: Any = None
    for_pretrained = False

    def __call__(self, signals):
        found = super().__call__(signals)
        (batch,) = Checked.module.shown
        with torch.no_grad():
            logits = Checked.module.logits(batch)
        rows = [a[b != -100].double() for a, b in zip(logits, batch["y"][:, 1:], strict=True)]
        expected = torch.stack([torch.linalg.svdvals(row).sum() for row in rows])
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        Checked.kinds.append("head" if signals.logits is None else "logits")
        return found


def fitted(kind: type[Model], data: list[Any] | None = None, **kwargs: Any) -> tuple[Model, list[str]]:
    torch.manual_seed(0)
    module = kind()
    Checked.kinds, Checked.module = [], module
    callback = BatchSelection(Checked(), Diverse(capacity=8), keep=3, **kwargs)
    trainer(callback, max_epochs=1).fit(module, DataLoader(data or batches(), batch_size=None))
    return module, Checked.kinds


class Hooked(Model):
    def training_step(self, batch, batch_idx):
        handle = self.mix.register_forward_hook(lambda module, given, made: made)
        self.head.requires_grad_(False)
        loss = super().training_step(batch, batch_idx)
        self.head.requires_grad_(True)
        handle.remove()
        return loss


class ViewChanged(Model):
    def logits(self, batch):
        logits = super().logits(batch)
        logits.view(-1, WORDS).div_(1 if self.global_step == 0 else torch.linspace(0.1, 3, WORDS))
        return logits


class Detached(Model):
    def logits(self, batch):
        logits = super().logits(batch)
        logits.detach().mul_(1 if self.global_step == 0 else torch.linspace(0.1, 3, WORDS))
        return logits


class DataReplaced(Model):
    def logits(self, batch):
        logits = super().logits(batch)
        logits.data = logits.data * (1 if self.global_step == 0 else torch.linspace(0.1, 3, WORDS))
        return logits


class MovedBehindTheScenes(Model):
    """As people write an exponential moving average of a frozen head."""

    def __init__(self) -> None:
        super().__init__()
        self.head.requires_grad_(False)

    def on_train_batch_end(self, *args: Any) -> None:
        self.head.weight.data.mul_(1.5)


class HiddenChangedAfterwards(Model):
    def logits(self, batch):
        hidden = self.body(batch).contiguous()
        logits = self.head(hidden)
        if not torch.is_grad_enabled() and self.global_step:
            hidden.mul_(0.0)
        return logits


class Numpy(Model):
    def training_step(self, batch, batch_idx):
        logits = self.logits(batch)
        self.mean = float(logits.detach().cpu().numpy().mean())
        return self.loss(logits, batch["y"][:, 1:])


class TruePicked(Model):
    def training_step(self, batch, batch_idx):
        logits, labels = self.logits(batch), batch["y"][:, 1:]
        counted = labels != -100
        self.mean = logits[counted, labels[counted]].mean()
        return self.loss(logits, labels)


class Mixed(Model):
    def training_step(self, batch, batch_idx):
        logits, labels = self.logits(batch), batch["y"][:, 1:]
        return 0.5 * self.loss(logits, labels) + 0.5 * self.loss(logits, labels.roll(1, 0))


class OtherLossLogged(Model):
    def training_step(self, batch, batch_idx):
        logits = self.logits(batch)
        with torch.no_grad():
            self.whole = self.loss(logits[:, :4], batch["x"][:, 1:5])
        return self.loss(logits, batch["y"][:, 1:])


class WithTopic(Model):
    def __init__(self) -> None:
        super().__init__()
        self.topic = nn.Linear(WIDTH, 5)

    def training_step(self, batch, batch_idx):
        topic = F.cross_entropy(self.topic(self.body(batch).mean(1)), batch["x"][:, 0] % 5)
        return 0.1 * topic + super().training_step(batch, batch_idx)


class MadeLate(Model):
    def __init__(self) -> None:
        pl.LightningModule.__init__(self)

    def configure_model(self) -> None:
        self.embed, self.mix = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)


class Fused(Model):
    def training_step(self, batch, batch_idx):
        return F.linear_cross_entropy(self.body(batch).flatten(0, 1), self.head.weight, batch["y"][:, 1:].flatten())


class InChunks(Model):
    def training_step(self, batch, batch_idx):
        pairs = zip(self.body(batch).split(4, 1), batch["y"][:, 1:].split(4, 1), strict=True)
        return sum(self.loss(self.head(part), labels, reduction="sum") for part, labels in pairs) / 50


class LogitsInChunks(Model):
    def training_step(self, batch, batch_idx):
        pairs = zip(self.logits(batch).split(4, 1), batch["y"][:, 1:].split(4, 1), strict=True)
        return sum(self.loss(part, labels, reduction="sum") for part, labels in pairs) / 50


class NormalisedInStep(Model):
    """Prototypes of unit norm; the check outside of the step sees them as the optimizer left them."""

    def logits(self, batch):
        return F.linear(self.body(batch), F.normalize(self.head.weight.detach()))

    def training_step(self, batch, batch_idx):
        self.head.weight.data = F.normalize(self.head.weight.data)
        return self.loss(self.head(self.body(batch)), batch["y"][:, 1:])


class Renormalised(Model):
    """The embedding writes to the weight that is the head's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, max_norm=0.5)
        self.embed.weight.data.mul_(0.05)
        self.head.weight = self.embed.weight

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.3)


class MaskedByHand(Model):
    def training_step(self, batch, batch_idx):
        labels = batch["y"][:, 1:]
        counted = (labels != -100).float()
        terms = F.cross_entropy(self.logits(batch).transpose(1, 2), labels.clamp(min=0), reduction="none")
        return (terms * counted).sum() / counted.sum()


class SummedByHand(Model):
    def training_step(self, batch, batch_idx):
        labels = batch["y"][:, 1:]
        return self.loss(self.logits(batch), labels, reduction="none").sum() / (labels != -100).sum()


class SecondHeadLater(Model):
    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(WIDTH, WORDS)

    def training_step(self, batch, batch_idx):
        loss = 0.0
        if batch_idx >= 2:
            loss = 0.1 * self.loss(self.aux(self.embed(batch["x"]))[:, :-1], batch["y"][:, 1:])
        return super().training_step(batch, batch_idx) + loss


HEAD, LOGITS = ["head"] * 4, ["logits"] * 4


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Model, HEAD),
        (Hooked, HEAD),
        (ViewChanged, LOGITS),
        (Detached, LOGITS),
        (DataReplaced, LOGITS),
        (MovedBehindTheScenes, HEAD),
        (HiddenChangedAfterwards, ["head", "logits", "logits", "logits"]),
        (Numpy, LOGITS),
        (TruePicked, LOGITS),
        (Mixed, HEAD),
        (NormalisedInStep, LOGITS),
        (MaskedByHand, LOGITS),
        (SummedByHand, LOGITS),
        (OtherLossLogged, HEAD),
        pytest.param(
            Fused, HEAD, marks=pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="needs a newer torch")
        ),
    ],
)
def test_every_step_scores_its_logits(kind, expected):
    module, kinds = fitted(kind)
    assert kinds == expected
    assert not module.mix._forward_hooks
    assert module.head.weight.requires_grad is (kind is not MovedBehindTheScenes)


def test_a_head_that_an_embedding_renormalises_is_scored_by_its_logits():
    """From the second batch on there is something to renormalise."""
    assert fitted(Renormalised)[1][1:] == LOGITS[1:]


def test_a_hook_on_a_weight_is_there_once():
    class Halved(Model):
        def training_step(self, batch, batch_idx):
            if not hasattr(self, "done"):
                self.done = True
                self.mix.weight.register_hook(lambda grad: 0.5 * grad)
            return super().training_step(batch, batch_idx)

    module, _ = fitted(Halved)
    assert len(module.mix.weight._backward_hooks) == 1


@pytest.mark.parametrize("kind", [WithTopic, MadeLate])
def test_a_named_head_is_read_from_the_first_batch_on(kind):
    assert fitted(kind, head="head")[1] == HEAD


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithTopic, r"BatchSelection.head must name .* None and topic.bias, topic.weight and head.weight in WithTopic"),
        (SecondHeadLater, r"BatchSelection.head must name .* None and aux.bias, aux.weight and head.weight"),
        (InChunks, "InChunks.training_step must show all logits of a row in one loss, got 3 losses"),
        (LogitsInChunks, "LogitsInChunks.training_step must show all logits of a row in one loss, got 3 losses"),
    ],
)
def test_what_would_be_the_logits_of_something_else_is_an_error(kind, message):
    with pytest.raises(ArgumentError, match=message):
        fitted(kind)


def test_batches_of_one_token_and_of_no_counted_token_come_in_between():
    data = batches()
    data[1] = {name: values[:, 3:5] for name, values in data[1].items()}
    assert fitted(Model, data)[1] == HEAD
    data = batches()
    data[2]["y"][:] = -100
    torch.manual_seed(0)
    module = Model()
    callback = BatchSelection(NuclearNorm(), Diverse(capacity=8), keep=3)
    with pytest.warns(UserWarning, match="made for a pretrained model"):
        trainer(callback, max_epochs=1).fit(module, DataLoader(data, batch_size=None))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantised_head_is_scored_by_its_logits(caplog):
    class Quantised(Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(WIDTH, WORDS)), {nn.Linear})[0]

        def loss(self, logits, labels, **kwargs):
            return super().loss(logits, labels, **kwargs) + 0.0 * self.mix.weight.sum()

    with caplog.at_level(logging.INFO):
        assert fitted(Quantised)[1] == LOGITS
    assert "no linear layer makes them" in caplog.text


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"])
def test_sharded_weights_are_not_relied_on(strategy, caplog):
    with caplog.at_level(logging.INFO):
        reader = HeadReader(Model(), strategy, None)
        assert not reader.wants_trial({"loss"})
        assert not caplog.text  # nobody has asked for a head
        assert not reader.wants_trial({"head"})
    assert f"{strategy} shards it" in caplog.text
    assert not reader.can_read({"head"})
    with pytest.raises(ArgumentError, match=f"'head', which cannot be read: {strategy} shards it"):
        HeadReader(Model(), strategy, "head")


def test_products_of_a_head_with_a_bias_are_kept(monkeypatch):
    from lightning_select.signals.head import gram as head_gram

    class Frozen(Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(WIDTH, WORDS).requires_grad_(False)

    made = []
    real = head_gram._head_gram
    monkeypatch.setattr(head_gram, "_head_gram", lambda *args, **kwargs: made.append(1) or real(*args, **kwargs))
    assert fitted(Frozen)[1] == HEAD
    assert len(made) == 1

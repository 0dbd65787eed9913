"""Text with little variety: a tiny BERT of transformers on made reviews, of which one in ten needs a closer look.

Prints accuracy on the plain reviews and on the twisted ones ("not bad at all"), per seed, for uniform training and for
dynamic loss reweighting, which costs no pass of its own. Weights of large losses reach the rare kind sooner; with wrong
labels in the data they would do harm. Needs: pip install "lightning-select[llm]"
"""

import argparse
import logging
import random
from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from transformers import BertConfig, BertForSequenceClassification

from lightning_select import LossReweighting
from lightning_select.weightings.dynamic_loss import DynamicLoss

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
GOOD, BAD = ("good", "lovely", "bright", "funny", "moving"), ("bad", "dull", "weak", "messy", "boring")
PLACES, WORDS = (
    ("film", "play", "book", "song", "meal"),
    ("the", "was", "really", "not", "at", "all", "but", "i", "say"),
)
VOCABULARY = {word: number for number, word in enumerate(("[PAD]", *GOOD, *BAD, *PLACES, *WORDS))}


def review(draw: random.Random, twisted: bool) -> dict[str, Tensor]:
    positive = draw.random() < 0.5
    word = draw.choice(GOOD if positive != twisted else BAD)
    end = f"not {word} at all" if twisted else draw.choice((f"{word} at all", f"really {word}"))
    words = f"{draw.choice(('i say', 'but'))} the {draw.choice(PLACES)} was {end} {'[PAD] ' * 3}".split()[:9]
    ids = torch.tensor([VOCABULARY[one] for one in words])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor(int(positive))}


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        self.bert = BertForSequenceClassification(BertConfig(vocab_size=len(VOCABULARY), num_labels=2, **sizes))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.bert(**batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


def accuracies(seed: int, steps: int, *callbacks: LossReweighting) -> str:
    seed_everything(seed, verbose=False)
    draw = random.Random(seed)
    rows, module = [review(draw, draw.random() < 0.1) for _ in range(2000)], Classifier()
    trainer = Trainer(max_steps=steps, accelerator="cpu", callbacks=list(callbacks), **QUIET)
    trainer.fit(module, DataLoader(rows, 32, shuffle=True))
    batch = default_collate([review(draw, twisted) for twisted in (False, True) for _ in range(500)])
    with torch.inference_mode():
        right = module.eval().bert(**batch).logits.argmax(dim=1) == batch["labels"]
    return " and ".join(f"{share:.3f}" for share in right.float().view(2, 500).mean(dim=1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    for seed in range(chosen.seeds):
        uniform = accuracies(seed, chosen.steps)
        weighed = accuracies(seed, chosen.steps, LossReweighting(DynamicLoss()))
        print(f"seed {seed}, accuracy on plain and twisted reviews: uniform {uniform}; reweighted {weighed}")


if __name__ == "__main__":
    main()

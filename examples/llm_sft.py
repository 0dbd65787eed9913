"""Fine-tune a causal language model on the quarter of every batch that UDS picks; the module is an ordinary one.

    python examples/llm_sft.py                                           # offline, on a CPU, in under a minute
    python examples/llm_sft.py --model Qwen/Qwen2.5-0.5B --data my.jsonl # any folder or hub id of a causal model

Needs: pip install "lightning-select[llm]". Random weights, as without ``--model``, have nothing that UDS could rank by.
"""

import argparse
from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_select import BatchSelection
from lightning_select.app.data.instructions import Instructions
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse


class FineTuning(LightningModule):
    """Nothing of this module knows that rows are selected."""

    def __init__(self, model: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.model = model
        self.lr = lr

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.model(**batch).loss
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        self.log("val/loss", self.model(**batch).loss, batch_size=tokens)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def small_model(vocabulary: int) -> torch.nn.Module:
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": vocabulary, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, **tokens))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; without, a small one with random weights")
    parser.add_argument("--data", help="JSON lines with instruction, input, output; without, small bundled tasks")
    parser.add_argument("--keep", type=float, default=0.25, help="share of every batch to train on; 1 is all of it")
    parser.add_argument("--epochs", type=int, default=10)
    chosen = parser.parse_args(arguments)
    seed_everything(0, verbose=False)
    data = Instructions(chosen.data, chosen.model, batch_size=32)
    pretrained = chosen.model is not None
    if not pretrained:
        torch.set_num_threads(1)  # so small a model is faster without company
    model = AutoModelForCausalLM.from_pretrained(chosen.model) if pretrained else small_model(len(data.tokenizer))
    module = FineTuning(model.float().train(), lr=2e-5 if pretrained else 3e-3)
    trainer = Trainer(
        max_epochs=chosen.epochs,
        accelerator="auto" if pretrained else "cpu",
        accumulate_grad_batches=2,
        log_every_n_steps=5,
        callbacks=[BatchSelection(NuclearNorm(), Diverse(), keep=chosen.keep)],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(module, datamodule=data)
    found = trainer.callback_metrics
    told = ("batch_selection/score_kept", "batch_selection/score_dropped", "train/loss", "val/loss")
    values = ", ".join(f"{name} {float(found[name]):.4g}" for name in told if name in found)
    print(f"{trainer.global_step} steps; {values}")


if __name__ == "__main__":
    main()

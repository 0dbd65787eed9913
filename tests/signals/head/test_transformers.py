"""Heads of transformers' models, as they are and under PEFT."""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
import pytest
import torch

from lightning_select import BatchSelection, LossReweighting
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.head.terms import Linear, Mapped
from lightning_select.signals.scoring import StepRunner
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import trainer

transformers = pytest.importorskip("transformers")

WORDS = 120
SMALL = {"vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
MODELS = {
    "llama": (SMALL | HEADS, Linear),
    "qwen2": (SMALL | HEADS | {"tie_word_embeddings": True}, Linear),
    "gpt2": ({"vocab_size": WORDS, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}, Linear),
    "gemma2": (SMALL | HEADS | {"head_dim": 8, "final_logit_softcapping": 3.0}, Mapped),
    "granite": (SMALL | HEADS | {"logits_scaling": 4.0}, Linear),
    "phi": (SMALL | HEADS, Linear),
}
"""How the head of each is read; phi has a bias, granite divides, gemma2 caps."""


class Tuned(pl.LightningModule):
    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss


def model_of(kind: str):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **MODELS[kind][0], pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return transformers.AutoModelForCausalLM.from_config(config).float()


def batch_of(seed: int, *, left: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, WORDS, (5, 12), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(5):
        mask[row, : row if left else None].mul_(0) if left else mask[row, 12 - row :].mul_(0)
    ids = ids * mask
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def checked(module: Tuned, *, left: bool = False, tokens: str = "answer"):
    """The scores from the head are those of the logits that the model itself returns."""
    runner = StepRunner(module, None, module.training_step)
    runner.measure(batch_of(0, left=left), {"head"})
    batch = batch_of(1, left=left)
    signals = runner.measure(batch, {"head"})
    assert signals.loss is None
    module.eval()
    with torch.no_grad():
        logits = module.model(**batch).logits.double()
    module.train()
    answers = torch.nn.functional.pad(batch["labels"][:, 1:] != -100, (0, 1))
    used = answers if tokens == "answer" else batch["attention_mask"].bool()
    # Older models cut the last position off before the loss, which has no label for it; the head ends there too.
    length = signals.valid.shape[1]
    logits, used = logits[:, :length], used[:, :length]
    expected = torch.stack([torch.linalg.svdvals(logits[row][used[row]]).sum() for row in range(5)])
    torch.testing.assert_close(NuclearNorm(tokens)(signals).double(), expected, rtol=1e-5, atol=1e-6)
    return signals.head


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("left", [False, True])
def test_reads_the_head_of_an_untouched_model(kind, left):
    assert isinstance(checked(Tuned(model_of(kind)), left=left).term, MODELS[kind][1])


@pytest.mark.parametrize("left", [False, True])
def test_takes_prompts_but_no_padding_if_told_so(left):
    checked(Tuned(model_of("llama")), left=left, tokens="all")


def test_reads_a_head_with_an_adapter_and_checkpointed_activations():
    peft = pytest.importorskip("peft")
    model = model_of("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases have another name for it
        model.gradient_checkpointing_enable({"use_reentrant": False})
        settings = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], lora_alpha=8, init_lora_weights=False)
        module = Tuned(peft.get_peft_model(model, settings))
    assert len(checked(module).term.parts) == 2


def test_reads_a_compiled_model_and_trains_it_on():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return {name: values[index % 5] for name, values in batch_of(index // 5).items()}

    class Fits(Tuned):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = model_of("llama")
    model.compile(backend="eager")
    checked(Tuned(model))
    callback = BatchSelection(NuclearNorm(), Diverse(), keep=2)
    before = model.lm_head.weight.detach().clone()
    trainer(callback, max_epochs=2).fit(Fits(model), torch.utils.data.DataLoader(Rows(), batch_size=5))
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("kind", ["selects", "weighs"])
def test_a_model_that_hides_its_loss_where_it_is_compiled_runs_uncompiled(kind, caplog):
    """With row losses: newer dynamo does not trace these models while somebody watches their functions."""

    class Fits(Tuned):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trained(*, compiled: bool) -> dict[str, torch.Tensor]:
        torch.compiler.reset()  # what it gave up tracing before, it would not try again
        model = model_of("llama")
        if compiled:
            model.compile(backend="eager")
        callback = {
            "selects": lambda: BatchSelection(Loss(), TopK(), keep=2),
            "weighs": lambda: LossReweighting(DynamicLoss()),
        }[kind]()
        data = torch.utils.data.DataLoader([batch_of(seed) for seed in range(3)], batch_size=None)
        with caplog.at_level("INFO"):
            trainer(callback, max_epochs=1).fit(Fits(model), data)
        return {name: value.clone() for name, value in model.state_dict().items()}

    plain = trained(compiled=False)
    assert "uncompiled" not in caplog.text
    torch.testing.assert_close(trained(compiled=True), plain, rtol=1e-5, atol=1e-6)
    told = caplog.text.count("hides the reductions of its loss where it is compiled")
    # Some versions of torch and transformers can trace them; then they stay compiled, and there is nothing to say.
    assert told == 1 or (told == 0 and torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0)

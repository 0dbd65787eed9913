"""Models of transformers, randomly initialised, in a plain LightningModule that trains on their own losses."""

import lightning.pytorch as L
import pytest
import torch

pytest.importorskip("transformers")

import transformers

from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
)

pytestmark = pytest.mark.slow

TINY = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WAVE = {
    "vocab_size": 12,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
    "ctc_loss_reduction": "mean",
    "layerdrop": 0.0,
}


def plain(build, *, pop=False):
    class Plain(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = build()

        def training_step(self, batch, batch_idx):
            if pop:
                labels = batch.pop("labels")
                loss = self.model.loss_function(self.model(**batch).logits, labels, vocab_size=50)
            else:
                loss = self.model(**batch).loss
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    return Plain


def encoded(**columns):
    return lambda: [transformers.BatchEncoding({k: make() for k, make in columns.items()}) for _ in range(3)]


def text(*, padded=True, masked=False):
    def batches():
        made = []
        for _ in range(3):
            ids = torch.randint(5, 50, (4, 10))
            lengths = torch.tensor([10, 6, 4, 8]) if padded else torch.full((4,), 10)
            there = torch.arange(10) < lengths[:, None]
            labels = ids.masked_fill(~there, -100)
            if masked:
                labels = labels.masked_fill(torch.rand(4, 10) > 0.4, -100)
                labels[:, 0] = ids[:, 0]
            columns = {"input_ids": ids, "attention_mask": there.long(), "labels": labels}
            made.append(transformers.BatchEncoding(columns))
        return made

    return batches


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    )


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY, num_key_value_heads=1))


def masked_lm():
    return transformers.BertForMaskedLM(transformers.BertConfig(**TINY))


def classifier():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, num_labels=3))


def regressor():
    return transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, num_labels=1))


def span_finder():
    return transformers.BertForQuestionAnswering(transformers.BertConfig(**TINY))


def translator():
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def vision():
    vit = {key: value for key, value in TINY.items() if key != "vocab_size"}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**vit, image_size=16, patch_size=8, num_labels=3)
    )


def speech():
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**WAVE))


def spoken():
    batches = encoded(input_values=lambda: torch.randn(4, 800), labels=lambda: torch.randint(1, 12, (4, 5)))()
    for batch in batches:
        batch["labels"][0, 3:] = -100
        batch["labels"][2, 2:] = -100
    return batches


def ids():
    return torch.randint(5, 50, (4, 8))


def place():
    return torch.randint(0, 8, (4,))


CASES = {
    "gpt2": Case(plain(gpt2), text(padded=False)),
    "classifier": Case(plain(classifier), encoded(input_ids=ids, labels=lambda: torch.randint(0, 3, (4,)))),
    "regressor": Case(plain(regressor), encoded(input_ids=ids, labels=lambda: torch.rand(4))),
    "spans": Case(plain(span_finder), encoded(input_ids=ids, start_positions=place, end_positions=place)),
    "vision": Case(
        plain(vision), encoded(pixel_values=lambda: torch.randn(4, 3, 16, 16), labels=lambda: torch.randint(0, 3, (4,)))
    ),
    "ctc": Case(plain(speech), spoken),
}
PADDED = {
    "gpt2": Case(plain(gpt2), text()),
    "gpt2, labels popped": Case(plain(gpt2, pop=True), text()),
    "llama": Case(plain(llama), text()),
    "masked": Case(plain(masked_lm), text(masked=True)),
    "t5": Case(plain(translator), text()),
}
ALL = [*CASES.values(), *PADDED.values(), Case(plain(llama), text(), trainer={"precision": "bf16-mixed"})]
NAMES = [*CASES, *(f"{name}, padded" for name in PADDED), "llama, bf16"]


@pytest.mark.parametrize("case", ALL, ids=NAMES)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", ALL, ids=NAMES)
def test_selection_is_training_on_the_chosen_rows(case):
    check_selection(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_row_losses_are_those_of_rows_alone(case):
    check_row_losses(case)


@pytest.mark.parametrize("case", PADDED.values(), ids=PADDED)
def test_a_row_counts_its_own_tokens_only(case):
    check_row_losses(case, mean=False)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_weighted_gradient_is_that_of_the_weighted_loss(case):
    check_weighted_gradient(case)


def test_weighted_gradient_where_rows_differ_in_length():
    def weighted(module, batch, weights):
        logits, labels = (
            module.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits,
            batch["labels"],
        )
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        return (losses * weights[:, None]).sum() / (labels[:, 1:] != -100).sum()

    check_weighted_gradient(PADDED["llama"], weighted)

"""UDS from the output head chooses what UDS from singular values of the logits chooses, on text."""

from __future__ import annotations

from dataclasses import replace

import torch

from lightning_select.app.data.small_tasks import small_tasks
from lightning_select.protocols import SelectionContext
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse
from lightning_select.signals.base import Signals
from lightning_select.signals.scoring import StepRunner
from tests.language_models import IGNORED, CausalLM

BATCHES, ROWS, KEPT = 200, 8, 2


def batch_of(number: int, texts: list[tuple[bytes, bytes]]) -> dict[str, torch.Tensor]:
    """Bytes of instruction and answer; prompt and padding are masked."""
    chosen = [texts[(number * ROWS + row) % len(texts)] for row in range(ROWS)]
    width = max(len(prompt) + len(answer) for prompt, answer in chosen)
    ids, labels = torch.zeros(ROWS, width, dtype=torch.int64), torch.full((ROWS, width), IGNORED)
    for row, (prompt, answer) in enumerate(chosen):
        text = torch.tensor(list(prompt + answer))
        ids[row, : len(text)] = text
        labels[row, len(prompt) : len(text)] = text[len(prompt) :]
    return {"input_ids": ids, "labels": labels}


def by_singular_values(signals: Signals) -> torch.Tensor:
    used = (signals.logits * signals.valid.unsqueeze(-1)).double()
    return torch.linalg.svdvals(used).sum(dim=1).float()


def test_picks_are_those_of_the_logits():
    texts = [(f"{t['instruction']} {t['input']}\n".encode(), t["output"].encode() + b"\n") for t in small_tasks()]
    torch.manual_seed(0)
    module = CausalLM()
    module.log = lambda *args, **kwargs: None
    optimizer = module.configure_optimizers()
    head, full = (StepRunner(module, None, module.training_step) for _ in range(2))
    states: list[dict[str, torch.Tensor]] = [{}, {}]
    same = total = 0
    for number in range(BATCHES):
        batch = batch_of(number, texts)
        seen = head.measure(batch, {"head"})
        plain = full.measure(batch, {"logits"})
        chosen = []
        for position, (scores, signals) in enumerate(
            [(NuclearNorm()(seen), seen), (by_singular_values(plain), replace(plain, head=None))]
        ):
            context = SelectionContext(signals, torch.Generator().manual_seed(number), states[position])
            selection = Diverse()(scores, KEPT, context)
            states[position] = dict(selection.state)
            chosen.append(set(selection.index.tolist()))
        same += len(chosen[0] & chosen[1])
        total += KEPT
        optimizer.zero_grad()
        module.training_step({name: values[list(chosen[0])] for name, values in batch.items()}, 0).backward()
        optimizer.step()
    assert seen.loss is None, "the last pass should have ended at the loss"
    assert same >= 0.99 * total

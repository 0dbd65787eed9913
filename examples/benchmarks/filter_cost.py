"""What it costs to filter a round of attempts, against making them.

32 prompts with 8 attempts each. In every round: the seconds in which attempts are made, those of the filter, and those
from the rewards to the buffer, with the counters and the making of groups. Medians over the rounds of one fit. The bar
is for a small transformer (0.8 million weights) that writes 32 tokens; the one of `grpo`, with 5 tokens as cheap as
attempts can be, stands beside it without a bar. With a language model in earnest the shares are smaller still.

    python examples/benchmarks/filter_cost.py --json examples/benchmarks/results/filter_cost.json
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from common import QUIET, Bar, be_quiet, finish, options, print_table, without_attached
from grpo_arms import ATTEMPTS, PROMPTS, data_of
from lightning.pytorch import Trainer

from lightning_select.rollouts import rounds
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.grpo import GRPO
from lightning_select.rollouts.tiny_policy import TinyPolicy
from lightning_select.rollouts.zero_variance import ZeroVariance

__all__ = ["main"]

FILTERS = {"zero variance": ZeroVariance(), "balanced": Balanced()}
MODELS: Mapping[str, tuple[Mapping[str, int], int]] = {
    "small": ({"width": 128, "depth": 4, "context": 64}, 32),
    "of grpo": ({"context": 16}, 5),
}


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return result

    return run


def even(prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any]) -> list[float]:
    """A reward that an untrained policy earns now and then."""
    return [float(len(text) % 2 == 0) for text in completions]


def measure(model: str, group_filter: Any, count: int) -> dict[str, float]:
    """Median seconds of the parts of a round."""
    arguments, tokens = MODELS[model]
    torch.manual_seed(0)
    module = GRPO(TinyPolicy(**arguments), even, attempts=ATTEMPTS, max_tokens=tokens, group_filter=group_filter)
    parts: dict[str, list[float]] = {"making": [], "filtering": [], "sorting": []}
    hand_over = rounds.Rounds._hand_over
    with (
        mock.patch.object(TinyPolicy, "sample", timed(TinyPolicy.sample, parts["making"])),
        mock.patch.object(rounds, "passing", timed(rounds.passing, parts["filtering"])),
        mock.patch.object(rounds.Rounds, "_hand_over", timed(hand_over, parts["sorting"])),
    ):
        trainer = without_attached(Trainer(**QUIET, max_epochs=1, limit_train_batches=count))
        trainer.fit(module, data_of(0).train_dataloader())
    return {name: statistics.median(seconds) for name, seconds in parts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    be_quiet()
    torch.set_num_threads(1)
    started, figures, rows, limits = time.perf_counter(), [], [], []
    for model in MODELS:
        for name, group_filter in FILTERS.items():
            found = measure(model, group_filter, 3 if asked.fast else 40)
            share, whole = (found[part] / found["making"] for part in ("filtering", "sorting"))
            figures.append({"model": model, "filter": name, **found})
            times = [f"{found[part] * 1e3:.2f}" for part in ("making", "filtering", "sorting")]
            rows.append([f"{model}, {name}", *times, f"{share:.4f}", f"{whole:.4f}"])
            if model == "small":
                limits.append(Bar(f"{name}: share of the time of attempts", share, "at most", 0.01))
    header = ["model, filter", "attempts", "filter", "rewards to buffer", "filter's share", "all of it"]
    print_table(f"Milliseconds of a round of {PROMPTS} prompts", header, rows)
    return finish("filter_cost", figures, limits, asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())

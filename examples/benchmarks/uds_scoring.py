"""What it costs to score rows by the nuclear norm of their logits, with the logits and without.

The reference way makes the logits of all tokens and takes their singular values (``torch.linalg.svdvals``, float32, all
rows at once). Ours is `NuclearNorm` from the hidden states and the output head, in two cases: the head is as it was,
so that the product of its weights is kept; and the head has just changed, so that it is made anew, which is what full
fine-tuning does with every optimizer step. All take turns in one process on the same numbers; the table has medians and
the ratio of each round. The scores of both ways are compared. Peak memory is what each way asks of the device beyond
its inputs: on the CPU the growth of the resident set of a fresh process, on a GPU what torch's allocator says.

Below it, what one step with ``BatchSelection(NuclearNorm(), Diverse(), keep=0.25)`` costs as a share of a plain step of
the same model on all rows of the batch, with a head that is trained and with one that is frozen, in Lightning's
Trainer.

``--gpu`` takes the sizes of a model of 7 billion parameters in bfloat16. It adds two bars: score and draw take at most
a tenth of the forward pass that finds the hidden states (a Qwen2 of random weights, which needs transformers), and
nothing makes the host wait.

    python examples/benchmarks/uds_scoring.py --cpu --json examples/benchmarks/results/uds_scoring.json
    python examples/benchmarks/uds_scoring.py --gpu --json examples/benchmarks/results/uds_scoring_gpu.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import Bar, be_quiet, finish, options, print_table
from overhead import Ratio
from scoring_steps import StepCost, cost_of_a_step
from torch import Tensor

from lightning_select.protocols import SelectionContext
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse
from lightning_select.signals.base import Signals
from lightning_select.signals.head.cache import HeadCache
from lightning_select.signals.head.head import Head
from lightning_select.signals.head.terms import Linear, Part

__all__ = ["Plan", "main", "peak", "scored"]

REFERENCE, KEPT, CHANGED, DRAWN = "logits, svdvals", "ours, head kept", "ours, head changed", "ours, score and draw"


@dataclass(frozen=True)
class Plan:
    """Sizes, rounds, and what must hold."""

    rows: int = 4
    tokens: int = 256
    features: int = 512
    classes: int = 32_000
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    rounds: int = 15
    faster: float = 30.0
    layers: int = 0

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Hidden states, and the weight of the head; the same numbers each time."""
        generator = torch.Generator(self.device).manual_seed(0)
        kind: dict[str, Any] = {"generator": generator, "device": self.device, "dtype": self.dtype}
        hidden = torch.randn(self.rows, self.tokens, self.features, **kind)
        return hidden, torch.randn(self.classes, self.features, **kind) * self.features**-0.5


CPU = Plan()
GPU = Plan(32, 512, 3584, 151_936, torch.bfloat16, "cuda", 7, 50.0, 28)
FAST = Plan(2, 16, 32, 600, rounds=2)
FAST_GPU = Plan(2, 16, 32, 600, torch.bfloat16, "cuda", 2, 50.0, 1)


def reference(hidden: Tensor, weight: Tensor) -> Tensor:
    """The norms from the logits."""
    return torch.linalg.svdvals((hidden @ weight.T).float()).sum(dim=1)


def scored(hidden: Tensor, weight: Tensor, cache: HeadCache) -> tuple[Tensor, Signals]:
    """The norms from hidden states and head."""
    head = Head(Linear((Part(hidden, weight),)), (*hidden.shape[:2], len(weight)), cache)
    signals = Signals(head=head)
    return NuclearNorm()(signals), signals


def arms_of(plan: Plan) -> dict[str, Callable[[], Tensor]]:
    """Everything that takes turns."""
    hidden, plain = plan.inputs()
    weight = torch.nn.Parameter(plain, requires_grad=False)
    kept = HeadCache()
    memory: dict[str, Tensor] = {}
    generator = torch.Generator(plan.device)

    def score_and_draw() -> Tensor:
        nonlocal memory
        scores, signals = scored(hidden, weight, kept)
        selection = Diverse()(scores, max(1, plan.rows // 4), SelectionContext(signals, generator, memory))
        memory = dict(selection.state)
        return scores

    return {
        REFERENCE: lambda: reference(hidden, weight),
        KEPT: lambda: scored(hidden, weight, kept)[0],
        CHANGED: lambda: scored(hidden, weight, HeadCache())[0],
        DRAWN: score_and_draw,
    }


def timed(run: Callable[[], Any], device: str) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def race(arms: dict[str, Callable[[], Tensor]], plan: Plan) -> dict[str, list[float]]:
    """Seconds of every arm in every round, there and back again in turn."""
    for arm in arms.values():
        timed(arm, plan.device)
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(plan.rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            taken[name].append(timed(arms[name], plan.device))
    return taken


def peak(plan: Plan, name: str) -> float:
    """Megabytes that one call needs beyond its inputs."""
    if plan.device == "cuda":
        arm = arms_of(plan)[name]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        arm()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, "--peak", name, *(["--fast"] if plan is FAST else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)


def _growth(plan: Plan, name: str) -> float:
    arms_of(FAST)[name]()  # whatever libraries set aside when they are first used
    arm = arms_of(plan)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = _resident("VmRSS")
    arm()
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10


def waits(arm: Callable[[], Any]) -> int:
    """1 if the call makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        arm()
    except RuntimeError:
        return 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return 0


def forward_seconds(plan: Plan) -> float:
    """Median time of the forward pass that finds the hidden states."""
    import transformers

    sizes = {"hidden_size": plan.features, "intermediate_size": 5 * plan.features, "num_hidden_layers": plan.layers}
    heads = {"num_attention_heads": max(1, plan.features // 128), "num_key_value_heads": max(1, plan.features // 896)}
    config = transformers.AutoConfig.for_model("qwen2", vocab_size=plan.classes, **sizes, **heads)
    with torch.device(plan.device):
        model = transformers.AutoModel.from_config(config, dtype=plan.dtype)
    ids = torch.randint(plan.classes, (plan.rows, plan.tokens), device=plan.device)
    with torch.no_grad():
        timed(lambda: model(ids), plan.device)
        return statistics.median(timed(lambda: model(ids), plan.device) for _ in range(plan.rounds))


def report(plan: Plan, taken: dict[str, list[float]], memory: dict[str, float]) -> list[dict[str, Any]]:
    """Print the table and return its rows."""
    rows: list[dict[str, Any]] = []
    for name, seconds in taken.items():
        ratio = Ratio.of([slow / fast for slow, fast in zip(taken[REFERENCE], seconds, strict=True)])
        figure = {"arm": name, "milliseconds": statistics.median(seconds) * 1e3, "faster": asdict(ratio)}
        rows.append(figure | {"peak_megabytes": memory.get(name)})
    size = f"({plan.rows}, {plan.tokens}) tokens, {plan.features} features, {plan.classes} classes, {plan.dtype}"
    print_table(f"Scores of {size}", ["way", "ms", "times faster", "peak MB"], [_cells(row) for row in rows])
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    faster, peak = row["faster"], row["peak_megabytes"]
    times = f"{faster['median']:.1f} ({faster['low']:.1f}..{faster['high']:.1f})"
    return [row["arm"], f"{row['milliseconds']:.1f}", times, "" if peak is None else f"{peak:.0f}"]


def report_steps(costs: Sequence[StepCost]) -> None:
    """Print what a step costs."""
    print_table(
        "A step that keeps a quarter of the batch, as a share of a plain step on all of it",
        ["head", "plain step ms", "step with selection", "of it scoring and draw"],
        [[cost.head, f"{cost.plain_ms:.0f}", str(cost.with_selection), str(cost.scoring)] for cost in costs],
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The usual options and where to run."""
    gpu = "--gpu" in arguments
    asked = options([word for word in arguments if word not in ("--gpu", "--cpu")], __doc__)
    asked.gpu = gpu
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, judge."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--peak"]:  # a process of its own, asked by `peak`
        print(_growth(FAST if "--fast" in words else CPU, words[1]))
        return 0
    asked, started = parse(words), time.perf_counter()
    be_quiet()
    warnings.filterwarnings("ignore", "NuclearNorm is made for a pretrained model")  # nothing is learned here
    plan = {(False, False): CPU, (False, True): GPU, (True, False): FAST, (True, True): FAST_GPU}[asked.fast, asked.gpu]
    arms = arms_of(plan)
    off = float((arms[KEPT]().double() / arms[REFERENCE]().double() - 1).abs().max())
    taken = race(arms, plan)
    memory = {name: peak(plan, name) for name in (REFERENCE, KEPT, CHANGED)}
    rows = report(plan, taken, memory)
    print(f"\nlargest relative difference of a score: {off:.1e}")
    faster = next(row["faster"]["median"] for row in rows if row["arm"] == KEPT)
    bars = [
        Bar("times faster", faster, "at least", plan.faster),
        Bar("peak memory, share of the reference", memory[KEPT] / max(memory[REFERENCE], 1e-9), "at most", 0.1),
    ]
    figures: dict[str, Any] = {"scoring": rows, "difference": off}
    if asked.gpu:
        forward = forward_seconds(plan)
        share = statistics.median(taken[DRAWN]) / forward
        bars += [Bar("score and draw, share of the forward pass", share, "at most", 0.1)]
        bars += [Bar("host waits", waits(arms[DRAWN]), "at most", 0)]
        figures |= {"forward_milliseconds": forward * 1e3}
    else:
        costs = cost_of_a_step(fast=asked.fast)
        report_steps(costs)
        figures["steps"] = [asdict(cost) for cost in costs]
    return finish("uds_scoring", figures, bars, asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())

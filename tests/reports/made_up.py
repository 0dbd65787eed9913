"""Records of runs that never took place, with known properties."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lightning_select.reports.report_data import Cost, ReportData
from lightning_select.reports.row_table import RowTable
from lightning_select.reports.suspects import Suspects
from lightning_select.reports.timeline import Timeline

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def table(rows: int = 200, periods: int = 6, *, keep: float = 0.3, classes: int = 10, seed: int = 0) -> RowTable:
    """Rows whose chance to be chosen grows with their loss in later periods."""
    draw = np.random.default_rng(seed)
    loss = draw.gamma(1.5, 0.6, rows).astype(np.float32)
    rank = loss.argsort().argsort() / max(rows, 1)
    chosen_in = np.zeros((rows, periods), np.uint8)
    for period in range(periods):
        tilt = period / max(periods - 1, 1)
        chosen_in[:, period] = draw.random(rows) < keep * (1 - tilt + 2 * tilt * rank)
    chosen = chosen_in.sum(1).astype(np.int64)
    label = draw.integers(0, classes, rows)
    right = np.clip(draw.random(rows) * (1.4 - rank), 0, 1).astype(np.float32)
    return RowTable(
        offered=np.full(rows, periods),
        chosen=chosen,
        weight=np.where(chosen > 0, 1.0, np.nan).astype(np.float32),
        loss=loss,
        last_loss=(loss * draw.random(rows)).astype(np.float32),
        score=(loss - 0.3).astype(np.float32),
        margin=(2 - 2 * loss + draw.normal(0, 0.3, rows)).astype(np.float32),
        confidence=np.exp(-loss).astype(np.float32),
        agreement=right,
        visits=np.full(rows, periods),
        forgettings=draw.integers(0, 3, rows),
        learnt_at=draw.integers(-1, max(periods, 1), rows),
        label=label,
        suggestion=(label + 1 + draw.integers(0, max(classes - 1, 1), rows)) % classes,
        group=draw.integers(0, 3, rows),
        chosen_in=chosen_in,
        periods=tuple(f"epoch {period + 1}" for period in range(periods)),
        class_names=CLASSES if classes <= 10 else (),
        group_names=("north", "south", "sea"),
    )


def unknown(rows: int, *, periods: int = 0, times: int = 0) -> RowTable:
    """Rows of which nothing is known but how often they were trained on."""
    floats, ints = np.full(rows, np.nan, np.float32), np.full(rows, -1, np.int64)
    none, often = np.zeros(rows, np.int64), np.full(rows, times, np.int64)
    values: dict[str, Any] = dict.fromkeys(("loss", "last_loss", "score", "margin", "confidence"), floats)
    values |= {"agreement": floats, "weight": floats, "visits": none, "forgettings": none, "learnt_at": ints}
    values |= {"label": ints, "suggestion": ints, "group": ints, "offered": often, "chosen": often}
    chosen_in = np.full((rows, periods), 1 if times else 0, np.uint8)
    return RowTable(**values, chosen_in=chosen_in, periods=tuple(f"epoch {p + 1}" for p in range(periods)))


def timeline(snapshots: int = 120, *, scored: bool = True, keep: float = 0.3, seed: int = 0) -> Timeline:
    """Losses that fall, scores that widen."""
    draw = np.random.default_rng(seed)
    step = np.arange(snapshots) * 8
    level = 2.3 * np.exp(-step / 400) + 0.1
    quantiles = level[:, None] * np.array([0.1, 0.5, 1.0, 1.6, 3.0]) * draw.uniform(0.9, 1.1, (snapshots, 1))
    score = quantiles - 0.6 if scored else np.full((snapshots, 5), np.nan)
    kept = np.full(snapshots, keep) * (draw.uniform(0.9, 1.1, snapshots) if keep < 1 else 1)
    return Timeline(step, step // 160, score.astype(np.float32), quantiles.astype(np.float32), kept.astype(np.float32))


def suspects(rows: RowTable, likely: int = 50) -> Suspects:
    """The rows with the smallest margins."""
    ids = np.argsort(rows.margin, kind="stable").astype(np.int64)
    scores = np.linspace(1, 0, max(len(ids), 1))[: len(ids)].astype(np.float32)
    told = tuple(f"margin {rows.margin[row]:.2f}, the lowest {place + 1} of all" for place, row in enumerate(ids[:60]))
    return Suspects(ids, scores, told, min(likely, len(ids)), f"margins of {len(rows.periods)} epochs")


def image(row: int) -> Any:
    """A picture with a label, which depends on the row."""
    draw = np.random.default_rng(row)
    across = np.linspace(0, 6, 32) * draw.uniform(0.5, 2)
    waves = np.sin(across[:, None] + draw.uniform(0, 6, 3)[:, None, None]) * np.cos(across[None, :])
    return (0.5 + 0.5 * waves).astype(np.float32), int(draw.integers(0, 10))


def report(rows: RowTable | None = None, *, show: Callable[[int], Any] = image, **changes: Any) -> ReportData:
    """A report on made-up rows; other parts by keyword."""
    rows = table() if rows is None else rows
    data = ReportData(
        title="CNN on made-up pictures",
        facts=(
            ("Module", "examples.SmallCNN"),
            ("Dataset", f"MadeUp, {rows.rows:,} rows"),
            ("Callbacks", "BatchSelection(Loss, TopK, keep=0.3)"),
            ("Epochs", str(len(rows.periods))),
            ("Written", "2026-11-21 19:30"),
            ("Versions", "lightning-select 0.1, torch 2.13, lightning 2.6.6"),
        ),
        notices=(),
        table=rows,
        timeline=timeline(),
        suspects=suspects(rows),
        cost=Cost(412.0, 63.5, 2.25, 960, int(rows.offered.sum()), int(rows.chosen.sum())),
        show=show,
    )
    return dataclasses.replace(data, **changes)

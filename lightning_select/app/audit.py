"""``task=audit``: train as always, and say what kind of data this is, which labels look wrong, and what fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from lightning_select.app.building import build_callbacks, build_data, build_model, build_trainer
from lightning_select.app.console import say
from lightning_select.callbacks.batch_selection import BatchSelection
from lightning_select.callbacks.loss_reweighting import LossReweighting
from lightning_select.callbacks.report_parts import table_of
from lightning_select.callbacks.selection_report import SelectionReport
from lightning_select.errors import ConfigurationError
from lightning_select.reports.data_kind import DataKind, data_kind
from lightning_select.reports.decision_table import decide
from lightning_select.reports.likely_mislabelled import likely_mislabelled
from lightning_select.reports.row_table import RowTable
from lightning_select.reports.suspects import Suspects

__all__ = ["audit", "tell"]

_SHOWN = 10
_BY_HEART = 0.05
_HINT = (
    "hint: {right:.1%} of the rows were right at their last visit. If wrong labels are among them, the model has\n"
    "learnt them by heart, and fewer epochs tell them apart better (examples/benchmarks/mislabelled.py, Banking77)."
)


def audit(config: DictConfig) -> None:
    """Train the user's module on all rows alike, and report on the rows.

    Raises:
        ConfigurationError: A callback selects rows, or nothing could be read.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    data, model = build_data(config), build_model(config)
    callbacks = build_callbacks(config)
    chosen = OmegaConf.select(config, "sampler._target_")
    if chosen or any(isinstance(one, (BatchSelection, LossReweighting)) for one in callbacks):
        raise ConfigurationError(
            "task=audit must train on all rows alike, got a sampler or a callback that selects or weighs them. Leave "
            "callbacks/selection and sampler out."
        )
    settings: Any = OmegaConf.to_container(config.audit, resolve=True)
    folder = Path(HydraConfig.get().runtime.output_dir)
    report = SelectionReport(folder, title=f"Audit: {type(model).__name__}", name="audit", **settings)
    trainer = build_trainer(config, [*callbacks, report])
    trainer.fit(model, datamodule=data, ckpt_path=config.ckpt_path)
    if not trainer.is_global_zero or report.noting is None:
        return
    table = table_of(report)
    say("\n" + tell(table, likely_mislabelled(table)))
    say(
        f"\nThe rows: {report.file or folder}, and rows.csv beside it (one line per row, `suspicion` among the columns)"
    )


def tell(table: RowTable, suspects: Suspects | None) -> str:
    """What the audit found, in lines."""
    kind = data_kind(table, suspects)
    lines = [f"audit: {kind.rows:,} of {table.rows:,} rows seen, {len(table.periods)} periods of training", ""]
    lines += [*_kind_lines(kind, table), ""]
    lines += [*_suspect_lines(table, suspects), ""]
    if kind.unlearnt_share is not None and kind.unlearnt_share < _BY_HEART:
        lines += [_HINT.format(right=1 - kind.unlearnt_share), ""]
    for decision in decide(kind):
        lines.append(f"For {decision.when}: {decision.first}.")
        if decision.methods:
            lines.append(f"  worth a comparison: {', '.join(decision.methods)}")
        if decision.avoid:
            lines.append(f"  keep away from: {', '.join(decision.avoid)}")
        lines.append(f"  because {decision.reason}")
    return "\n".join(lines)


def _kind_lines(kind: DataKind, table: RowTable) -> list[str]:
    early = f"{table.periods[0]}" if kind.early == 1 and table.periods else f"the first {kind.early} periods"
    told = (
        ("likely wrong labels", _share(kind.wrong_share), "an estimate, on the safe side"),
        ("redundancy", _share(kind.redundant_share), f"rows that were right from {early} on and never forgotten"),
        ("not learnt", _share(kind.unlearnt_share), "rows that were wrong at their last visit"),
        ("imbalance", "unknown" if kind.imbalance is None else f"{kind.imbalance:.3g}", "largest to smallest class"),
    )
    return [f"  {name:<20} {value:>8}  {meaning}" for name, value, meaning in told]


def _suspect_lines(table: RowTable, suspects: Suspects | None) -> list[str]:
    if suspects is None:
        return ["No losses could be read of any row, so nothing can be said of its label."]
    likely = "" if suspects.likely is None else f", {suspects.likely:,} of them likely wrong"
    lines = [f"Most suspicious of {len(suspects.ids):,} rows ({suspects.basis}){likely}:"]
    for row, evidence in list(zip(suspects.ids.tolist(), suspects.evidence, strict=False))[:_SHOWN]:
        label, other = table.class_name(int(table.label[row])), table.class_name(int(table.suggestion[row]))
        lines.append(f"  row {row}: " + (evidence if table.label[row] < 0 else f"{label} or {other}? {evidence}"))
    return lines


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"

"""Two beds where the effect of selection is known: what helps, what does harm, and what it costs.

`t_reg` tries `LossReweighting` on a linear regression with a rare group of rows, `t_batch` and `equal_rows` try
`BatchSelection` on a classification where most rows are redundant; all on right targets and on partly wrong ones.
Everything runs through ``Trainer.fit`` on LightningModules that know nothing of selection.

    python examples/benchmarks/beds.py --json examples/benchmarks/results/beds.json
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import equal_rows
import t_batch
import t_reg
from common import finish, options
from fits import Runs

LEGEND = """\
Each figure is the median of {seeds} seeds (the lowest..the highest). Shares and leads are taken seed by seed: on a
seed, all methods have the same data, initial weights and order of rows. Methods have the constant rate of the bed;
where it says 'own rate' or 'at equal rows', it decays to zero from the best of several, chosen on seeds that are not
reported. Rows are all that went through the model: in training, scoring, probing (once per fit) and for a reference; a
row that is only scored is about a third of the work of one that is trained on. Seconds are those of one core for the
whole fit until then, with all of that included."""


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments, __doc__)
    reg_plan, batch_plan = (t_reg.FAST, t_batch.FAST) if asked.fast else (t_reg.FULL, t_batch.FULL)
    started = time.perf_counter()
    runs = Runs(workers=1 if asked.fast else min(4, os.cpu_count() or 1))
    figures: dict[str, Any] = {}
    print(LEGEND.format(seeds=len(reg_plan.seeds)))
    reg, batch = {}, {}
    for wrong, title in ((False, "clean"), (True, "5 % outliers")):
        reg[wrong] = t_reg.measure(runs, reg_plan, wrong)
        t_reg.show(title, reg[wrong])
        figures[f"T-REG, {title}"] = t_reg.figures(reg[wrong])
    for wrong, title in ((False, "clean"), (True, "30 % wrong labels")):
        batch[wrong] = t_batch.measure(runs, batch_plan, wrong)
        t_batch.show(title, batch[wrong])
        equal = equal_rows.measure(runs, batch_plan, wrong, batch[wrong])
        equal_rows.show(title, batch[wrong], equal)
        figures[f"T-BATCH, {title}"] = t_batch.figures(batch[wrong])
        figures[f"T-BATCH, {title}, at equal rows"] = equal_rows.figures(equal)
    runs.close()
    bars = [*t_reg.bars(reg[False], reg[True]), *t_batch.bars(batch[True])]
    return finish("beds", figures, bars, asked, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())

"""The section on how scores and losses moved."""

from __future__ import annotations

import numpy as np

from lightning_select.reports.charts import band_chart, line_chart
from lightning_select.reports.figures import Figure, Section
from lightning_select.reports.timeline import Timeline

__all__ = ["course_section"]


def course_section(timeline: Timeline) -> Section:
    """Scores and losses of batches over the run, and how much of each batch was kept."""
    text: list[str] = []
    figures: list[Figure] = []
    if not len(timeline.step):
        text.append("No batch was recorded, so nothing is known of how scores and losses moved.")
        return Section("course", "Scores and losses over time", tuple(text))
    if np.isfinite(timeline.score).any():
        figures.append(band_chart("Scores of the offered rows", timeline.step, timeline.score, "score"))
    else:
        text.append("No score was made: nothing in this run scores rows, as BatchSelection does.")
    if np.isfinite(timeline.loss).any():
        figures.append(band_chart("Losses of the rows trained on", timeline.step, timeline.loss, "loss"))
    else:
        text.append("No loss of single rows was read in this run.")
    known = timeline.kept[np.isfinite(timeline.kept)]
    if known.size and not np.all(known == 1):
        figures.append(line_chart("Share of each batch that was kept", timeline.step, timeline.kept, "share kept"))
    elif known.size:
        text.append("Every row of every recorded batch was trained on.")
    return Section("course", "Scores and losses over time", tuple(text), tuple(figures))

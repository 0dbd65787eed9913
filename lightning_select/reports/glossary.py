"""What the words of a report mean, and where they come from."""

from __future__ import annotations

from lightning_select.reports.figures import Section

__all__ = ["glossary"]

_TERMS = (
    ("offered", "Times that a row came in a batch, before anything was left out."),
    ("chosen, trained on", "Times that a row went through a backward pass."),
    ("weight", "Mean factor of the row's gradient while it was trained on; 1 is what training without selection does."),
    ("loss", "Mean loss of the row over the times that it was trained on or scored; last_loss is the latest."),
    ("score", "Mean of what the score of the selection gave the row; what it measures depends on the score."),
    (
        "margin",
        "Area under the margin: mean over training of the logit of the label less the largest other logit. Far below "
        "zero, the model keeps preferring another class (Pleiss, Zhang, Elenberg and Weinberger, Identifying "
        "Mislabeled Data using the Area Under the Margin Ranking, 2020, arXiv:2001.10528).",
    ),
    ("confidence", "Mean probability that the model gave the label."),
    ("right, agreement", "Share of the visits at which the model's class was the label."),
    (
        "forgotten",
        "The row was classified right at one visit and wrong at the next; the number counts these events (Toneva et "
        "al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, 2019, arXiv:1812.05159).",
    ),
    ("learnt_at", "Number of the period since which the row has always been right; -1 where its last visit was wrong."),
    ("suggestion", "The class that the model preferred among the others at its last visit."),
    ("suspicion", "Place in the ranking by how likely the label is wrong: 1 is first; only the order means anything."),
    ("visit", "A time at which the model's class for the row was known."),
    ("period", "An epoch or, in a run of one epoch, a stretch of steps; longer runs have longer periods."),
)


def glossary() -> Section:
    """The words of the page and the columns of its CSV file."""
    text = "The columns of rows.csv, which lies beside this page, have these names too."
    return Section("glossary", "What the words mean", (text,), terms=_TERMS)

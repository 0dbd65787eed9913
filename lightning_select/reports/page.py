"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_select.errors import ConfigurationError
from lightning_select.reports.choice_sections import again_section, chosen_section
from lightning_select.reports.cost_section import cost_section
from lightning_select.reports.course_section import course_section
from lightning_select.reports.glossary import glossary
from lightning_select.reports.report_data import ReportData
from lightning_select.reports.row_section import row_section
from lightning_select.reports.share_section import share_section
from lightning_select.reports.summary import summary_of
from lightning_select.reports.wording import cut

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "render_page"]

FACT_LENGTH = 400
_HARMFUL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\ufffd")
"""Control characters that HTML forbids, whatever row they come from."""


def render_page(report: ReportData) -> str:
    """The page of a report.

    Everything in it that comes from the run or its data is escaped; images are data URIs, charts inline SVG. A policy
    in the page itself forbids scripts and requests, should anything ever slip through.

    Args:
        report: What to show. ``report.show`` is called for at most a hundred rows and may raise.

    Returns:
        The HTML document; it encodes to UTF-8 whatever the rows hold.

    Raises:
        ConfigurationError: Jinja is not installed; torch requires it, so that it nearly always is.
    """
    sections = (
        chosen_section(report.table),
        course_section(report.timeline),
        again_section(report.table),
        share_section(report.table),
        row_section(report),
        cost_section(report.cost),
        glossary(),
    )
    page = (
        environment("reports/templates")
        .get_template("report.html")
        .render(
            title=cut(report.title, FACT_LENGTH) or "Selection report",
            facts=[(name, cut(value, FACT_LENGTH)) for name, value in report.facts],
            notices=report.notices,
            summary=summary_of(report),
            sections=sections,
        )
    )
    # Lone surrogates, which file names and broken texts hold, cannot be encoded.
    return page.translate(_HARMFUL).encode("utf-8", "backslashreplace").decode("utf-8")


def environment(templates: str) -> Environment:
    """Where pages find their templates; what is put into them is escaped.

    Args:
        templates: Folder of the templates in the package.

    Raises:
        ConfigurationError: Jinja is not installed; torch requires it, so that it nearly always is.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ConfigurationError(
            "render_page must find jinja2, got an ImportError. Run: pip install 'lightning-select[report]'."
        ) from error
    loader = PackageLoader("lightning_select", templates)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

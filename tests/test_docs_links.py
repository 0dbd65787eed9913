"""The pages as a whole: links and anchors lead somewhere, on GitHub and on the site, which builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def links(text: str) -> list[str]:
    """Targets of links and pictures, those in blocks of code left out."""
    return LINK.findall(FENCED.sub("", text))


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings of a page; the second of a name gets a number."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
        if found[slug] > 1:
            found[f"{slug}-{found[slug] - 1}"] = 1
    return set(found)


def dead(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    return [link for link in links(text) if not leads_somewhere(page, text, link)]


def leads_somewhere(page: Path, text: str, link: str) -> bool:
    """Is it an address, or a file of the repository with that heading?"""
    if re.match(r"[a-z]+:", link):
        return link.startswith("https://")
    path, _, anchor = link.partition("#")
    target = (page.parent / path) if path else page
    if not target.is_file() or not target.resolve().is_relative_to(ROOT):
        return False
    return not anchor or anchor in anchors(text if target == page else target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    assert dead(page, page.read_text(encoding="utf-8")) == []


def test_a_dead_link_is_seen() -> None:
    page = ROOT / "docs" / "index.md"
    text = (
        "# One & two\n[a](#one--two) [b](#one) [c](methods.md#methods) [d](methods.md#nowhere) [e](nowhere.md)\n"
        "```\n# Five\n[f](in_code.md)\n```\n![g](no.png) [`h`](http://example.org) [i](../../outside.md) [j](#five)\n"
    )
    told = ["#one", "methods.md#nowhere", "nowhere.md", "no.png", "http://example.org", "../../outside.md", "#five"]
    assert dead(page, text) == told


def test_headings_of_one_name_are_numbered() -> None:
    assert anchors("# A b\n## A b\n## `c`: d\n") == {"a-b", "a-b-1", "c-d"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    pages = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in PAGES} - {"README.html"}
    assert built == pages | {"index.html", "404.html"}
    for name in built:
        text = (tmp_path / "site" / name).read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"([^\"]+)|<link[^>]+href=\"([^\"]+)", text)
        assert not [one for pair in loaded for one in pair if "//" in one], name


def test_a_page_that_nobody_can_reach_is_a_warning(tmp_path: Path) -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("      - docs/methods.md\n", "")
    # Beside the hook that it names, and the pages.
    absolute = config.replace("docs_dir: docs", f"docs_dir: {ROOT / 'docs'}").replace("- docs/as", f"- {ROOT}/docs/as")
    (tmp_path / "mkdocs.yml").write_text(absolute, encoding="utf-8")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "docs/methods.md" in done.stderr

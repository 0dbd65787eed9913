"""Pages in a real browser: what it complains about, what it asks for, how it looks, whether all can use it."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_select.reports.timeline import Timeline
from lightning_select.reports.writing import write_report
from tests.reports import made_up
from tests.reports.browsing import FLAGS, browser, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is there")

LONG = "a-name-without-any-place-to-break-it-" * 6
NASTY = "</style><script>document.title='broken'</script><img src='http://example.org/x.png' onerror=alert(1)>"
WIDE = "document.documentElement.scrollWidth <= window.innerWidth"
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true })"


def of_images() -> Any:
    return made_up.report(made_up.table(400, 8), notices=("Training was interrupted in epoch 8.",))


def of_few() -> Any:
    """All that a page can hold, of few rows: the checker looks at each word."""
    return made_up.report(made_up.table(12, 8), notices=("Training was interrupted in epoch 8.",))


def of_anything() -> Any:
    """Every kind of row, names that do not fit, and markup wherever text can stand."""
    draw = np.random.default_rng(0)
    rows = [
        ("a review of some length " * 20, 1),
        {"age": 37, "work": LONG, "hours": 40.5},
        draw.normal(size=40),
        np.sin(np.arange(9000) / 50).astype(np.float32),
        {"input_ids": np.arange(300), "attention_mask": np.ones(300, int)},
        NASTY,
        LONG,
    ]
    table = dataclasses.replace(made_up.table(30, 24, classes=30), class_names=(LONG, NASTY, *map(str, range(28))))
    return made_up.report(
        table, show=lambda row: rows[row % 7], title=LONG, notices=(NASTY, LONG), facts=((LONG, LONG),)
    )


def of_nothing() -> Any:
    return made_up.report(made_up.unknown(3, periods=1), suspects=None, timeline=Timeline.empty(), facts=())


REPORTS = {"images": of_images, "few": of_few, "anything": of_anything, "nothing": of_nothing}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser(), args=FLAGS, headless=True)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_report(tmp_path_factory.mktemp(name), make()) for name, make in REPORTS.items()}


@contextmanager
def opened(
    chromium: Any, file: Path, *, scheme: str = "light", width: int = 1200, bypass: bool = False
) -> Iterator[Any]:
    """A page in a fresh context; what it complains about and asks for is in ``troubles`` and ``asked``."""
    view_port = {"width": width, "height": 844}
    context = chromium.new_context(
        color_scheme=scheme, viewport=view_port, bypass_csp=bypass, service_workers="block", reduced_motion="reduce"
    )
    view = context.new_page()
    view.troubles, view.asked = [], []
    view.on("console", lambda message: view.troubles.append(f"{message.type}: {message.text}"))
    view.on("pageerror", lambda error: view.troubles.append(str(error)))
    view.on("dialog", lambda dialog: view.troubles.append(f"dialog: {dialog.message}"))
    view.on("request", lambda request: view.asked.append(request.url))
    try:
        view.goto(file.as_uri(), wait_until="load")
        yield view
    finally:
        context.close()


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [
        ("images", "light", 1200),
        ("images", "dark", 1200),
        ("images", "light", 390),
        ("anything", "light", 1200),
        ("anything", "dark", 390),
        ("anything", "light", 320),
        ("nothing", "dark", 390),
    ],
)
def test_a_page_is_quiet_and_fits(chromium, pages, name, scheme, width) -> None:
    with opened(chromium, pages[name], scheme=scheme, width=width) as view:
        assert view.evaluate(WIDE)
        shot = view.screenshot()
        view.evaluate(UNFOLD)
        assert view.evaluate(WIDE)
        assert view.evaluate("[...document.images].filter(one => !one.naturalWidth).length") == 0
        assert view.title() != "broken"
        dark = view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        assert dark == (scheme == "dark")
        assert view.troubles == []
        outside = [url for url in view.asked if not url.startswith("data:")]
        assert outside == [pages[name].as_uri()]
    assert struct.unpack(">I", shot[16:20])[0] == width


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("few", "light", 1200), ("few", "dark", 390), ("anything", "dark", 1200), ("nothing", "light", 390)],
)
def test_axe_finds_nothing_serious(chromium, pages, name, scheme, width) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # The policy of the page keeps out the script of the checker too.
    with opened(chromium, pages[name], scheme=scheme, width=width, bypass=True) as view:
        view.evaluate(UNFOLD)
        found = Axe().run(view).response
    serious = [one for one in found["violations"] if one["impact"] in {"serious", "critical"}]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious] == []
    assert len(found["passes"]) > 15


def test_the_policy_keeps_scripts_out(chromium, pages) -> None:
    with opened(chromium, pages["images"]) as view, pytest.raises(Exception, match="Content Security Policy"):
        view.add_script_tag(content="document.title = 'broken'")


def test_a_page_is_used_by_keyboard(chromium, pages) -> None:
    with opened(chromium, pages["images"]) as view:
        focused = "document.activeElement.tagName + ' ' + document.activeElement.className"
        view.keyboard.press("Tab")
        assert view.evaluate(focused) == "A skip"
        assert view.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        view.keyboard.press("Enter")
        assert view.evaluate("document.activeElement.id") == "main"
        seen = [""]
        # Around the page once: the last stop before the browser's own controls is the body.
        while seen[-1] != "BODY" and len(seen) < 200:
            view.keyboard.press("Tab")
            seen.append(view.evaluate("document.activeElement.tagName"))
        assert seen.count("SUMMARY") == view.evaluate("document.querySelectorAll('summary').length")
        view.focus("summary")
        view.keyboard.press("Enter")
        assert view.evaluate("document.querySelector('details').open")
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.className") == "scroll"
        view.keyboard.press("Shift+Tab")
        view.keyboard.press("Space")
        assert not view.evaluate("document.querySelector('details').open")


def test_every_link_leads_somewhere(chromium, pages) -> None:
    with opened(chromium, pages["images"]) as view:
        for link in view.query_selector_all("nav a"):
            target = link.get_attribute("href")
            link.click()
            assert view.evaluate("location.hash") == target
            assert view.query_selector(target) is not None
        assert view.troubles == []

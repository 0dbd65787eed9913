"""A browser for the tests of pages, where there is one."""

from __future__ import annotations

import importlib.util
import shutil

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("playwright", "axe_playwright_python")


def browser() -> str | None:
    """Path of a Chromium, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def missing() -> str:
    """What the browser tests lack, and how to get it; empty where they can run."""
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        return "no playwright found: pip install playwright axe-playwright-python to run the browser tests"
    if browser() is None:
        return "no Chromium found: install it (apt-get install chromium) to run the browser tests"
    return ""

"""A headless Chromium for tests of pages: `with opened_browser() as browser: page = browser.new_page()`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A browser of the machine, closed in the end. Without one, or without playwright: skip; with CI=true: fail, unless
    SOD_BROWSER_OPTIONAL=1."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        _missing(f"a browser, none of {', '.join(NAMES)} is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        try:
            yield browser
        finally:
            browser.close()


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "true" and os.environ.get("SOD_BROWSER_OPTIONAL") != "1":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")

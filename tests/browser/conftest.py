"""Pages in a real browser; skipped with a reason where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")

from selenium.webdriver import Chrome

from tests.browser.chromium import NoBrowserError, console_errors, find_chromium, open_browser


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Chrome]:
    try:
        find_chromium()
    except NoBrowserError as reason:
        pytest.skip(str(reason))
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(_chromium) -> Chrome:
    """The webdriver of a headless Chromium whose pages are 1500 x 1000: ``browser.get("file:///tmp/report.html")``.

    One process for all tests of a session; each begins on an empty page with an empty console.
    """
    _chromium.get("about:blank")
    console_errors(_chromium)
    return _chromium

"""Pages whose parts lie in shadow trees: elements by CSS selector, wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from selenium.webdriver import Chrome
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 40
"""Seconds that a page may take on a busy machine."""
DEEP = """
const found = [];
const walk = root => {
  found.push(...root.querySelectorAll(arguments[0]));
  for (const element of root.querySelectorAll('*')) if (element.shadowRoot) walk(element.shadowRoot);
};
walk(document);
const shown = found.filter(element => element.getClientRects().length);
const parts = node => node.localName === 'slot' ? node.assignedNodes()
  : [...(node.shadowRoot || node).childNodes].filter(part => !['style', 'script'].includes(part.localName));
const said = node => node.nodeType === 3 ? node.data : parts(node).map(said).join(' ');
return arguments[1] ? shown.map(element => said(element).trim().replace(/\\s+/g, ' ')) : shown;
"""
T = TypeVar("T")


def elements(browser: Chrome, selector: str) -> list[WebElement]:
    """All that match, those in shadow trees too, and are shown."""
    every: list[WebElement] = browser.execute_script(DEEP, selector, False)
    return every


def texts(browser: Chrome, selector: str) -> list[str]:
    """What they say. Asked for at once: a page that still moves replaces its elements."""
    every: list[str] = browser.execute_script(DEEP, selector, True)
    return every


def wait(browser: Chrome, condition: Callable[[], T]) -> T:
    """The first true value of ``condition``."""

    def tried(_: Any) -> T:
        return condition()

    return WebDriverWait(browser, PATIENCE, poll_frequency=0.2).until(tried)

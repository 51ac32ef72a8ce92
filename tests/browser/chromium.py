"""Headless Chromium, driven through its own chromedriver: both from one package of the system, so they fit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

WIDTH, HEIGHT = 1500, 1000
"""Of a page, and so of a picture of it."""
BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRIVERS = ("chromedriver", "chromium.chromedriver")


class NoBrowserError(Exception):
    """There is no Chromium here; says how to get one."""


def find_chromium() -> tuple[str, str]:
    """The paths of Chromium and of its driver; raises NoBrowserError."""
    binary, driver = (next(filter(None, map(shutil.which, names)), None) for names in (BINARIES, DRIVERS))
    if binary is None or driver is None:
        missing = " and ".join(name for name, path in (("chromium", binary), ("chromedriver", driver)) if path is None)
        raise NoBrowserError(f"no {missing} here: apt-get install chromium chromium-driver")
    return binary, driver


@contextmanager
def open_browser() -> Iterator[Chrome]:
    """A browser whose pages are 1500 x 1000 pixels and that reaches no network but this machine: what a page wants
    from elsewhere is an error in its console. Raises NoBrowserError."""
    binary, driver = find_chromium()
    options = ChromeOptions()
    options.binary_location = binary
    lines = [
        "--headless=new",
        "--disable-dev-shm-usage",  # containers give it 64 MB
        "--disable-gpu",
        "--enable-unsafe-swiftshader",  # WebGL without a GPU: TensorBoard's scalar charts and projector use it
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        "--lang=en-US",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        "--no-proxy-server",
        "--disable-background-networking",
    ]
    if os.geteuid() == 0:
        lines.append("--no-sandbox")  # Chromium refuses to start as root with it
    for line in lines:
        options.add_argument(line)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(executable_path=driver))
    try:
        # a window's size counts its frame
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
        )
        yield browser
    finally:
        browser.quit()


def console_errors(browser: Chrome) -> list[str]:
    """What the console has told since it was last asked, but for notes and warnings."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]

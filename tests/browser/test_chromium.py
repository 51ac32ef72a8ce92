"""The browser that the other tests use: its size, its console, no network."""

from __future__ import annotations

import struct

from tests.browser.chromium import HEIGHT, WIDTH, console_errors


def page(folder, text):
    path = folder / "page.html"
    path.write_text(f"<!doctype html><title>A page</title><link rel='icon' href='data:,'>{text}")
    return path.as_uri()


def test_pages_are_as_large_as_pictures_of_them(browser, tmp_path):
    browser.get(page(tmp_path, "<p id=p>text"))
    assert browser.title == "A page"
    assert browser.execute_script("return [innerWidth, innerHeight]") == [WIDTH, HEIGHT]
    assert struct.unpack(">II", browser.get_screenshot_as_png()[16:24]) == (WIDTH, HEIGHT)
    assert console_errors(browser) == []


def test_errors_of_a_page_are_told_once(browser, tmp_path):
    browser.get(page(tmp_path, "<script>console.warn('mild'); undefinedFunction()</script>"))
    (error,) = console_errors(browser)
    assert "undefinedFunction" in error
    assert console_errors(browser) == []


def test_what_a_page_wants_from_elsewhere_is_an_error(browser, tmp_path):
    browser.get(page(tmp_path, "<img src='http://example.com/a.png'>"))
    (error,) = console_errors(browser)
    assert "ERR_NAME_NOT_RESOLVED" in error

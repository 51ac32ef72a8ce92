"""A report in a real browser: it needs nothing but its file, runs nothing, and fits the page."""

from __future__ import annotations

import json

from lossrag.experiments.cli import run
from tests.browser.chromium import WIDTH, console_errors
from tests.experiments.reported_runs import made_run

EVIL = "<script>document.title='hacked'</script><img src=x onerror=alert(1)>"
OVERFLOW = "return document.documentElement.scrollWidth"
PICTURES = "return [...document.images].map(image => [image.complete, image.naturalWidth])"


def test_a_report_opens_from_its_file(browser, tmp_path):
    tasks = [EVIL, *(f"a_task_with_a_long_name_{number}" for number in range(13))]
    paths = []
    for method in ("uniform", "metaweighting"):
        for seed in (0, 1):
            scores = {task: 0.5 + 0.01 * place + 0.02 * seed for place, task in enumerate(tasks)}
            more = {"compositions": {EVIL: {EVIL: 1.0}}, "off": {EVIL: []}, "reasons": {EVIL: EVIL}}
            path = made_run(tmp_path / f"{method}{seed}", scores, seed, weighting={"name": method}, **more)
            with (path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": 15, f"composition/{EVIL}/{EVIL}": 1.0}) + "\n")
            paths.append(str(path))
    assert run(["report", *paths, f"output={tmp_path}/report.html"]) == 0
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.title == "LossRAG report: 4 runs"
    assert console_errors(browser) == []
    assert browser.execute_script("return document.scripts.length") == 0
    assert EVIL in browser.find_element("css selector", "table.tasks").text
    assert browser.execute_script(OVERFLOW) <= WIDTH
    folded = browser.find_elements("css selector", "details.run:not([open]) > summary")
    assert len(folded) == 3
    for summary in folded:
        summary.click()
    pictures = browser.execute_script(PICTURES)
    assert len(pictures) == 1 + 2 * 4
    assert all(complete and width > 500 for complete, width in pictures)
    assert browser.execute_script(OVERFLOW) <= WIDTH
    assert console_errors(browser) == []

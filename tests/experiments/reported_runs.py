"""Run directories made by hand, with scores that a test knows, and what a report's page says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "img", "br", "link"}


def made_run(
    path: Path,
    scores: Mapping[str, float],
    seed: int = 0,
    metric: Mapping[str, str] | None = None,
    mean: float | None = None,
    weighting: Mapping[str, Any] | None = None,
    overrides: list[str] | None = None,
    **more: Any,
) -> Path:
    """A finished run of these test scores; on validation, at its second epoch of two, they are 0.1 lower."""
    path.mkdir(parents=True)
    weighting = {"name": "uniform"} if weighting is None else weighting
    metric = dict.fromkeys(scores, "accuracy") if metric is None else metric
    settings = {
        "seed": seed,
        "preset": "toy",
        "tasks": {"name": "toy"},
        "model": {"name": "mlp"},
        "loss": {"policy": "fixed"},
        "weighting": weighting,
        "overrides": ["experiment=toy", f"seed={seed}"] if overrides is None else overrides,
    }
    (path / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    middle = sum(scores.values()) / len(scores) if mean is None else mean
    summary = {
        "run_id": path.name,
        "preset": "toy",
        "seed": seed,
        "suite": "toy",
        "edition": "toy data",
        "weighting": weighting["name"],
        "metric": metric,
        "lower_is_better": [task for task, name in metric.items() if name in ("mae", "rmse")],
        "test_accuracy": {task: score for task, score in scores.items() if metric[task] == "accuracy"},
        "test_accuracy_mean": None,
        "test_r2": {task: score for task, score in scores.items() if metric[task] != "accuracy"},
        "test_score_mean": middle,
        "test_loss": dict.fromkeys(scores, 0.5),
        "task_weights": dict.fromkeys(scores, 1.0),
        "best_epoch": 2,
        "epochs": 2,
        "refit": False,
        "validation_score_mean": middle - 0.1,
        "seconds": 1.0,
        "versions": {"lossrag": "0.1.0"},
        **more,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    points = [
        {
            "step": 10 * epoch,
            "epoch": epoch,
            "validation/score_mean": middle - 0.1 * (3 - epoch),
            **{f"validation/{metric[task]}/{task}": score - 0.1 * (3 - epoch) for task, score in scores.items()},
            **{f"support/loss/{task}": 1.0 / epoch for task in scores},
        }
        for epoch in (1, 2)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return path


class Page(HTMLParser):
    """The elements of a page: their names, attributes, tables as texts, preformatted texts; tags must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.pre: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "small":
            self.tables[-1][-1][-1] += " | "
        if tag == "pre":
            self.pre.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data
        if "pre" in self._open:
            self.pre[-1] += data

    def table(self, first: str) -> list[dict[str, str]]:
        """The rows, by the header's texts, of the first table whose header begins with ``first``."""
        found = next(table for table in self.tables if table and table[0][0] == first)
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))

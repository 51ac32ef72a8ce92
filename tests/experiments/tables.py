"""Tables of made up people, runs on their texts, and whether scores are those of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

SMALL = ["train.epochs=2", "train.batch_size=64", "log.tensorboard=false"]


def people(path: Path, rows: int, seed: int, **more: str) -> list[dict[str, str]]:
    """A table with holes in everything but the ``more`` columns and the text."""
    chance = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        age, school = int(chance.integers(18, 80)), str(chance.choice(["hs", "phd", "none at all"]))
        z = (age - 45) / 15 + (school == "phd") + chance.normal(0, 0.5)
        row = {"age": str(age), "school": school, "income": ">50K" if z > 0.4 else "<=50K"}
        row |= {"hours": f"{40 + 6 * z:.1f}", "north": f"{z:.2f}", "east": f"{-z + age:.2f}"}
        row = {name: "" if chance.random() < 0.15 else cell for name, cell in row.items()}
        made.append({**row, "said": f"{school} and word {age // 3} of them", **more})
    write(path, made)
    return made


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same_scores(directory: Path, scores: dict[str, object]) -> bool:
    """Whether scores and losses are those of the run's own test, to the last digit."""
    summary = json.loads((directory / "summary.json").read_text())
    own = {**summary["test_accuracy"], **summary["test_r2"]}
    return (own, summary["test_loss"], summary["test_score_mean"]) == (
        scores["score"],
        scores["loss"],
        scores["score_mean"],
    )

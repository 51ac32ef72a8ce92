"""Small tables."""

from __future__ import annotations

import csv

import numpy as np
import pytest


def rows_of(count: int = 160, seed: int = 0) -> list[dict[str, object]]:
    """People: numbers, a category, a class, a value, all of them with holes."""
    chance = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        age, school = int(chance.integers(18, 80)), str(chance.choice(["hs", "college", "phd"]))
        z = (age - 45) / 15 + (school == "phd") + chance.normal(0, 0.5)
        row: dict[str, object] = {
            "age": age,
            "school": school,
            "gain": round(float(chance.lognormal()) + i, 3),  # no two alike
            "income": ">50K" if z > 0.4 else "<=50K",
            "hours": round(40 + 6 * z, 1),
        }
        for column, share in (("age", 0.05), ("school", 0.05), ("income", 0.3), ("hours", 0.4)):
            if chance.random() < share:
                row[column] = ""
        rows.append({**row, "text": f"words of row {i} {school}"})
    return rows


@pytest.fixture
def write(tmp_path):
    """Writes rows as a CSV file; its path."""

    def call(rows, name="my.csv", columns=None):
        columns = columns or list(rows[0])
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return str(tmp_path / name)

    return call


PEOPLE = ["age", "school", "gain", "income", "hours"]

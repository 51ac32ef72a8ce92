"""A table to try `lossrag train experiment=table` with (docs/start-own.md): 569 rows, 29 inputs, 2 targets."""

import csv
from pathlib import Path

from sklearn.datasets import load_breast_cancer

data = load_breast_cancer()
names = [str(name).replace(" ", "_") for name in data.feature_names]
area = names.index("worst_area")
with Path("cancer.csv").open("w", newline="", encoding="utf-8") as stream:
    writer = csv.writer(stream)
    writer.writerow([*names[:area], *names[area + 1 :], "diagnosis", "worst_area"])
    for values, kind in zip(data.data, data.target_names[data.target], strict=True):
        writer.writerow([*values[:area], *values[area + 1 :], kind, values[area]])

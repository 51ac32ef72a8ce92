"""The table of a comparison for the terminal, in Markdown and in LaTeX: the same cells three times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lossrag.experiments.studies.plan import label
from lossrag.experiments.studies.result import TEST

Report = Mapping[str, Any]


def header(report: Report) -> list[str]:
    """The names of the columns."""
    tasks = list(report["rows"][0]["tasks"])
    differences = [f"minus {report['reference']}", "p"]
    if report["best"] not in (None, report["reference"]):
        differences += [f"minus {report['best']}", "p"]
    return ["method", *tasks, "mean", *differences, "rank", "runs"]


def cells(report: Report, row: Report) -> list[str]:
    """One row under :func:`header`."""
    texts = [row["method"], *(_mean(value) for value in row["tasks"].values()), _interval(row["test"], "")]
    for what in ("reference", "best"):
        if what == "reference" or report["best"] not in (None, report["reference"]):
            difference = row.get(f"minus {what}")
            texts += [_interval(difference, "+"), _p(difference)]
    failed, runs = row["failed"], row["runs"]
    rank = "" if row["rank"] is None else f"{row['rank']:.2f}"
    return [*texts, rank, f"failed: {failed} of {runs}" if failed else str(runs)]


def tuning_rows(report: Report) -> list[list[str]]:
    """method, setting, validation, chosen: every setting that was tried."""
    tuning = report["tuning"]
    return [
        [
            method,
            label(tuple(trial["setting"])),
            "failed" if trial["validation"] is None else f"{trial['validation']:.4f}",
            "chosen" if trial["chosen"] else "",
        ]
        for method, trials in (tuning["methods"].items() if tuning else ())
        for trial in trials
    ]


TUNING_HEADER = ["method", "setting", "validation", ""]


def caption(report: Report, seeds: Sequence[int]) -> str:
    """What the figures of the table are."""
    if len(seeds) == 1:
        return "Test score of one seed: no intervals, no tests. rank: mean rank over tasks, a failed run ranks last."
    return (
        f"Mean test score over {len(seeds)} seeds with 95 % intervals (Student's t). p: {TEST}. "
        "rank: mean rank over tasks and seeds, a failed run ranks last."
    )


def tuning_caption(report: Report) -> str:
    """How the settings were chosen."""
    tuning = report["tuning"]
    if tuning is None:
        return "Not tuned: every method runs with the values of the preset."
    return (
        f"Tuning: {tuning['runs']} runs for every method, seed {tuning['seed']}, chosen by the mean validation score "
        "of the best epoch."
    )


def markdown(name: str, reports: Sequence[Report], seeds: Sequence[int]) -> str:
    """table.md: a section for each suite, its table and the tuning behind it."""
    parts = [f"# Comparison {name}"]
    for report in reports:
        rows = [cells(report, row) for row in report["rows"]]
        for row, texts in zip(report["rows"], rows, strict=True):
            if row["method"] == report["best"]:
                texts[0] = f"**{texts[0]}**"
        parts += [f"## {report['suite']}", caption(report, seeds), _markdown_grid(header(report), rows)]
        parts.append(tuning_caption(report))
        if report["tuning"]:
            parts.append(_markdown_grid(TUNING_HEADER, tuning_rows(report)))
    return "\n\n".join(parts) + "\n"


def _markdown_grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *rows])


def latex(reports: Sequence[Report], seeds: Sequence[int]) -> str:
    """table.tex: one table environment for each suite and for its tuning; it needs the package booktabs."""
    parts = []
    for report in reports:
        head = header(report)
        rows = [cells(report, row) for row in report["rows"]]
        parts.append(_latex_table(f"{report['suite']}. {caption(report, seeds)}", head, rows))
        if report["tuning"]:
            title = f"{report['suite']}. {tuning_caption(report)}"
            parts.append(_latex_table(title, TUNING_HEADER, tuning_rows(report)))
    return "% \\usepackage{booktabs}\n" + "\n".join(parts)


def _latex_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in [head, *rows]]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    special = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$", "<": "$<$"}
    return "".join(special.get(letter, letter) for letter in text)


def rich_table(report: Report, seeds: Sequence[int]) -> Table:
    """For the terminal: without the columns of the tasks, which would not fit."""
    tasks = len(report["rows"][0]["tasks"])
    what = "test score of one seed"
    if len(seeds) > 1:
        what = f"mean test score over {len(seeds)} seeds, 95 % intervals, p of Holm"
    table = Table(title=f"{report['suite']}: {what}")
    for number, column in enumerate(_without(header(report), tasks)):
        table.add_column(column, justify="right" if number else "left")
    for row in report["rows"]:
        table.add_row(*_without(cells(report, row), tasks))
    return table


def _without(line: Sequence[str], tasks: int) -> list[str]:
    return [line[0], *line[1 + tasks :]]


def _mean(value: Report | None) -> str:
    return "" if value is None else f"{value['mean']:.4f}"


def _interval(value: Report | None, sign: str) -> str:
    if value is None:
        return ""
    mean = f"{value['mean']:{sign}.4f}"
    return mean if value["half"] is None else f"{mean} ± {value['half']:.4f}"  # a single value has no interval


def _p(difference: Report | None) -> str:
    p = None if difference is None else difference["p_holm"]
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"

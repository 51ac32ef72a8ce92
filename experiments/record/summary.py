"""Summary of a finished run: summary.json for scripts and one table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table

from lossrag import __version__
from lossrag.experiments.config.identity import Settings, section
from lossrag.experiments.config.schema import Config
from lossrag.experiments.record.descent import descent_sentence
from lossrag.experiments.record.directory import RunDirectory
from lossrag.experiments.record.progress import say
from lossrag.experiments.record.series import Evaluation
from lossrag.experiments.record.state import Best
from lossrag.experiments.record.steadiness import steady_sentence
from lossrag.lossbank import Composer, Event
from lossrag.tasks import METRICS, Suite


def summary_of(
    directory: RunDirectory,
    config: Config,
    settings: Settings,
    suite: Suite,
    test: Evaluation,
    best: Best,
    seconds: float,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of summary.json: test results of the epoch that validation chose, and its mean task weights.

    ``test_accuracy`` holds the classification tasks, ``test_accuracy_mean`` their mean, ``test_r2`` the regressions;
    ``lower_is_better`` names the tasks whose score is an error; ``test_score_mean`` is the mean score, over all tasks,
    of which more is better. ``further`` is what else there is to say of some runs:
    ``epochs`` that it took, ``compositions``, ``off``, ``reasons`` and ``steadiness`` where losses are composed,
    ``theorem_1`` with an outer problem, ``parent`` of one that began with the parameters of another run.
    """
    scores = dict(zip(suite.tasks, test.scores.tolist(), strict=True))
    accuracy = {task.name: value for task, value in scores.items() if task.kind == "classification"}
    return {
        "run_id": directory.run_id,
        "directory": str(directory.path),
        "preset": settings["preset"],
        "library": list(section({"library": {}, **settings}, "library")),
        "seed": config.seed,
        "suite": suite.name,
        "edition": suite.edition,
        "weighting": config.weighting.name,
        "metric": {task.name: task.metric for task in suite.tasks},
        "lower_is_better": [task.name for task in suite.tasks if not METRICS[task.metric].higher],
        "test_accuracy": accuracy,
        "test_accuracy_mean": sum(accuracy.values()) / len(accuracy) if accuracy else None,
        "test_r2": {task.name: value for task, value in scores.items() if task.kind == "regression"},
        "test_score_mean": test.score_mean,
        "test_loss": dict(zip(suite.task_names, test.losses.tolist(), strict=True)),
        "task_weights": dict(zip(suite.task_names, best.tensors["task_weights"].tolist(), strict=True)),
        "best_epoch": best.epoch,
        "validation_score_mean": best.score,
        "refit": config.train.refit,
        **further,
        "seconds": round(seconds, 3),
        "versions": {"lossrag": __version__, "torch": torch.__version__},
    }


def write_summary(directory: RunDirectory, summary: Mapping[str, Any]) -> None:
    """Write summary.json, the last file of a run, which makes it a finished one."""
    directory.lease.check()
    directory.finish(json.dumps(summary, indent=2).encode() + b"\n")


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The final table: test score per task and its mean, and the task weights of the chosen epoch."""
    scores = {**summary["test_accuracy"], **summary["test_r2"]}
    weights = {task: f"{weight:.3f}" for task, weight in summary["task_weights"].items()}
    mean = summary["test_score_mean"]
    title = _title(summary)
    console.print(score_table(title, summary["metric"], scores, summary["test_loss"], mean, "test ", weight=weights))
    for line in _sentences(summary):
        say(console, line)
    say(
        console,
        f"preset {summary['preset']}, seed {summary['seed']}, {summary['edition']}; {summary['seconds']:.0f} s\n"
        f"results   {summary['directory']}/summary.json\n"
        f"picture   {summary['directory']}/trajectories.png\n"
        + _losses_line(summary)
        + f"curves    tensorboard --logdir {summary['directory']}/tensorboard\n"
        f"use       lossrag predict run={summary['directory']} data=FILE"
        + (f" library=[{','.join(summary['library'])}]" if summary.get("library") else ""),
    )


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """The same as a text in Markdown."""
    scores = {**summary["test_accuracy"], **summary["test_r2"]}
    rows = [
        f"| {task} | {scores[task]:.4f} {metric} | {summary['test_loss'][task]:.4f} | {weight:.3f} |"
        for (task, metric), weight in zip(summary["metric"].items(), summary["task_weights"].values(), strict=True)
    ]
    lines = [
        f"### {_title(summary)}",
        "",
        "| task | test score | test loss | weight |",
        "| :-- | --: | --: | --: |",
        *rows,
        f"| **mean score** | **{summary['test_score_mean']:.4f}** | | |",
        "",
        *(f"- {line}" for line in _sentences(summary)),
        f"- mean validation score of that epoch: {summary['validation_score_mean']:.4f}",
        f"- preset {summary['preset']}, seed {summary['seed']}, {summary['edition']}; {summary['seconds']:.0f} s",
    ]
    return "\n".join(lines)


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary['weighting']} on {summary['suite']}: test set, best epoch {summary['best_epoch']}"


def _sentences(summary: Mapping[str, Any]) -> list[str]:
    """On the losses of every task, the bank, and the premises of the theorem, as far as the run has them."""
    lines = [
        sentence(task, shares, len(summary["off"][task]), summary.get("reasons", {}).get(task, ""))
        for task, shares in summary.get("compositions", {}).items()
    ]
    if "steadiness" in summary:
        lines.append(steady_sentence(summary["steadiness"], summary["bank_sources"]))
    if "theorem_1" in summary:
        lines.append(descent_sentence(summary["theorem_1"]))
    if "parent" in summary:
        parent = summary["parent"]
        begun = f"epoch {parent['epoch']} of {parent['directory']}, run {parent['run_id']}"
        lines.append(f"began with the parameters of {begun}")
    return lines


def score_table(
    title: str,
    metrics: Mapping[str, str],
    scores: Mapping[str, float],
    losses: Mapping[str, float],
    mean: float,
    where: str = "",
    **more: Mapping[str, str],
) -> Table:
    """The table of scores and losses by task, whose names ``metrics`` hold, and of ``more`` columns; ``where`` they are
    from."""
    right = (Column(name, justify="right") for name in (f"{where}score", f"{where}loss", *more))
    table = Table("task", *right, title=title)
    for task, metric in metrics.items():
        own = (column[task] for column in more.values())
        table.add_row(task, f"{scores[task]:.4f} {metric}", f"{losses[task]:.4f}", *own)
    table.add_section()
    named = ", ".join(sorted(set(metrics.values())))
    table.add_row("mean score", f"{mean:.4f} {named}", "", *("" for _ in more))
    return table


def _losses_line(summary: Mapping[str, Any]) -> str:
    """Where the pictures of a run's losses are, or how to see why there are none."""
    folder = Path(summary["directory"])
    drawn = [name for name in ("compositions.png", "losses.png", "bank.png") if (folder / name).exists()]
    if drawn:
        return f"losses    {folder}/{', '.join(drawn)}\n"
    asked = bool(summary.get("bank_sources"))
    return f"losses    as configured; lossrag bank picture run={folder} shows what was asked\n" if asked else ""


def composition_summary(composer: Composer, answers: Mapping[str, Event], sources: Sequence[str]) -> dict[str, Any]:
    """Per task the shares of the active losses, largest first, and the losses that are switched off; where a bank was
    asked why, from the ``answers`` that explain it, and the ``sources`` of the cases that answered."""
    shares, until = composer.state.shares.tolist(), composer.state.off_until.tolist()
    off = {
        task.name: [
            name
            for i, name in enumerate(composer.names)
            if i in composer.broken[t] or (until[t][i] > composer.reviews and shares[t][i] == 0)
        ]
        for t, task in enumerate(composer.tasks)
    }
    summary: dict[str, Any] = {"compositions": composer.compositions(), "off": off}
    if answers:
        reasons = {task.name: answers[task.name].reason for task in composer.tasks if task.name in answers}
        summary |= {"reasons": reasons, "bank_sources": list(sources)}
    return summary


def sentence(task: str, shares: Mapping[str, float], off: int, reason: str = "") -> str:
    """A composition in a line: the largest shares, until 90 % or three losses are named; and why.

    >>> sentence("TALK", {"symmetric_ce": 0.61, "mae": 0.3, "brier": 0.09}, 7)
    'TALK: symmetric_ce .61, mae .30, 1 other .09; 7 losses off'
    >>> sentence("TALK", {"mae": 1.0}, 0, "12 of 15 like it had symmetric noise.")
    'TALK: mae 1.00. 12 of 15 like it had symmetric noise.'
    """
    named: list[str] = []
    shown = 0.0
    for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])):
        if len(named) == 3 or shown >= 0.9:
            break
        named.append(f"{name} {share_text(share)}")
        shown += share
    rest = len(shares) - len(named)
    if rest and 1 - shown >= 0.005:
        named.append(f"{rest} {'other' if rest == 1 else 'others'} {share_text(1 - shown)}")
    switched = f"; {off} {'loss' if off == 1 else 'losses'} off" if off else ""
    return f"{task}: {', '.join(named)}{switched}" + (f". {reason}" if reason else "")


def share_text(share: float) -> str:
    """A share as it is written in tables.

    >>> share_text(0.607), share_text(1.0)
    ('.61', '1.00')
    """
    return f"{share:.2f}".removeprefix("0")

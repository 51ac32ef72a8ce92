"""Tags of TensorBoard: where a series of metrics.jsonl is shown. A task has a run of its own, so that it has a colour
and a name of its own in every chart; a tag says what is shown, and its group in which order.

TensorBoard sorts groups and cards by name and opens the first two groups: hence the numbers. The table in
docs/tensorboard.md is held to this file by a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lossrag.tasks import Task

ALL = "all_tasks"
"""The run of what belongs to no task."""
COLOURS = 7
"""Colours of TensorBoard, which it gives to runs in turn. A card shows no more tasks; the CUSTOM SCALARS page, on which
every tag has a marker of its own, shows all."""
LAMBDA = "1_overview/4_lambda"
COMPOSITION = "1_overview/6_composition"
D = "4_hypergradient/D"
BEST = "8_result/validation_mean"
TEST = "8_result/test_mean"
PICTURES = {
    "8_result/1_trajectories": "trajectories.png",
    "8_result/2_losses": "losses.png",
    "8_result/3_bank": "bank.png",
}
"""Pictures of a finished run by their tags."""
RESULT, EVENTS, RETRIEVAL, SETTINGS = "1_result", "2_events", "3_retrieval", "4_settings"
"""Texts."""

_OF_ALL = {
    "validation/score_mean": "1_overview/1_validation_mean",
    "query/score_mean": "3_training/query_mean",
    "test/score_mean": TEST,
    "frank_wolfe/gap": "4_hypergradient/frank_wolfe_gap",
    "frank_wolfe/iterations": "4_hypergradient/frank_wolfe_iterations",
    "theory/min_norm": "4_hypergradient/min_norm",
    "theory/common_descent": "4_hypergradient/common_descent",
    "optimizer/lr": "5_optimizer/lr",
    "steps/skipped": "5_optimizer/skipped_steps",
}
_OF_TASK = {
    "weight": "1_overview/3_task_weight",
    "lambda": "4_hypergradient/lambda_of_the_step",
    "composition_active": "1_overview/5_active_losses",
    "discriminator/loss": "6_adversarial/discriminator_loss",
    "discriminator/accuracy": "6_adversarial/discriminator_accuracy",
    "orthogonality": "6_adversarial/orthogonality",
}
_OF_LOSS = {"composition": "2_composition", "contribution": "7_contribution"}
_SPLITS = {"support": "3_training/support", "query": "3_training/query", "test": "8_result/test"}


def place_of(series: str) -> tuple[str, str]:
    """The name of the task, or ALL, and the tag that shows a series.

    >>> place_of("weight/parity"), place_of("validation/accuracy/parity")
    (('parity', '1_overview/3_task_weight'), ('parity', '1_overview/2_validation_accuracy'))
    >>> place_of("composition/parity/mae"), place_of("optimizer/lr")
    (('parity', '2_composition/mae'), ('all_tasks', '5_optimizer/lr'))
    """
    if series in _OF_ALL:
        return ALL, _OF_ALL[series]
    first, _, rest = series.partition("/")
    if first in _OF_LOSS:
        task, _, loss = rest.rpartition("/")
        return task, f"{_OF_LOSS[first]}/{loss}"
    for name, tag in _OF_TASK.items():
        if series.startswith(f"{name}/"):
            return series.removeprefix(f"{name}/"), tag
    quantity, _, task = rest.partition("/")
    if first == "validation":
        overview = quantity != "loss"
        return task, f"1_overview/2_validation_{quantity}" if overview else "3_training/validation_loss"
    return task, f"{_SPLITS[first]}_{quantity}"


def blocks(names: Sequence[str]) -> dict[str, str]:
    """By task what its cards have behind their tags: nothing, or of more tasks than COLOURS which are in it.

    >>> blocks(["a", "b"])
    {'a': '', 'b': ''}
    >>> blocks("abcdefgh")["h"]
    ' (tasks 8 to 8)'
    """
    if len(names) <= COLOURS:
        return dict.fromkeys(names, "")
    starts = [place - place % COLOURS for place in range(len(names))]
    ends = [min(start + COLOURS, len(names)) for start in starts]
    return {name: f" (tasks {start + 1} to {end})" for name, start, end in zip(names, starts, ends, strict=True)}


def folders(names: Iterable[str]) -> dict[str, str]:
    """The folder of every task's run, distinct also where upper and lower case are one.

    >>> folders(["MR", "mr", "a/b", "all_tasks"])
    {'MR': 'MR', 'mr': 'mr_2', 'a/b': 'a_b', 'all_tasks': 'all_tasks_2'}
    """
    taken = {ALL}
    chosen = {}
    for name in names:
        plain = re.sub(r"[^\w.+-]", "_", name).strip(".") or "task"
        number, folder = 1, plain
        while folder.lower() in taken:
            number += 1
            folder = f"{plain}_{number}"
        taken.add(folder.lower())
        chosen[name] = folder
    return chosen


def layout(tasks: Sequence[Task], composed: bool, terms: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    """The CUSTOM SCALARS page: one chart per quantity, the series ``terms`` of an adversarial model among them, all
    tasks in it."""

    def chart(pattern: str) -> list[object]:
        return ["Multiline", [f"^{pattern}( .*)?$"]]

    first = {"mean validation score": chart("1_overview/1_.*")}
    for metric in sorted({task.metric for task in tasks}):
        first[f"validation {metric}"] = chart(f"1_overview/2_validation_{metric}")
    first |= {"task weights": chart("1_overview/3_.*"), "lambda, running mean": chart("1_overview/4_.*")}
    if composed:
        first["active losses"] = chart("1_overview/5_.*")
    charts = {"Overview": first}
    if composed:
        charts["Losses: choose one task's run"] = {
            "composition": chart("2_composition/.*"),
            "contributions": chart("7_contribution/.*"),
        }
    charts["Training"] = {f"{split} loss": chart(f"3_training/{split}_loss") for split in ("support", "query")}
    charts["Training"]["validation loss"] = chart("3_training/validation_loss")
    for metric in sorted({task.batch_metric for task in tasks}):
        for split in ("support", "query"):
            charts["Training"][f"{split} {metric}"] = chart(f"3_training/{split}_{metric}")
    if terms:
        charts["Adversary"] = {name.replace("/", " "): chart(_OF_TASK[name]) for name in terms}
    return charts

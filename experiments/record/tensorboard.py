"""TensorBoard of a run: a run of its own per task and one for what belongs to all, pictures, texts, hyperparameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars, hparams, image

from lossrag.experiments.config.identity import Settings
from lossrag.experiments.plotting import new_figure
from lossrag.experiments.record.board_hparams import hparams_summaries
from lossrag.experiments.record.board_tags import (
    ALL,
    BEST,
    LAMBDA,
    PICTURES,
    RESULT,
    SETTINGS,
    blocks,
    folders,
    layout,
    place_of,
)
from lossrag.experiments.record.event_file import EventFile
from lossrag.tasks import Task

SMOOTHING = 50
"""Logged steps that the mean of lambda looks back on: the shares of one step are mostly noise of its batches."""
LAMBDA_SERIES = "lambda/"
COMPOSED = ("composition/", "composition_active/")
"""Beginnings of the series that are logged when they change."""


class TensorBoard:
    """Writes the runs of one training into ``folder``, whose names begin with ``label``.

    Of an earlier session, the points from step ``resumed`` on are dropped: those of that very step may have been
    logged in part, or after the checkpoint. A full disk is an OSError of the method that wrote, a deleted file one of
    :meth:`end_epoch`.
    """

    def __init__(self, folder: Path, label: str, tasks: Sequence[Task], resumed: int) -> None:
        self.tasks = tasks
        names = {ALL: ALL, **folders(task.name for task in tasks)}
        places = {run: folder / f"{label} {name}".lstrip() for run, name in names.items()}
        self.overall = places[ALL]
        self._blocks = {ALL: "", **blocks([task.name for task in tasks])}
        self._lambdas: dict[str, deque[float]] = {task.name: deque(maxlen=SMOOTHING) for task in tasks}
        self._held: dict[str, tuple[int, float]] = {}
        self._closing = ExitStack()
        self._files: dict[str, EventFile] = {}
        for name, place in places.items():
            self._files[name] = EventFile(place, resumed)
            self._closing.callback(self._files[name].close)

    def describe(self, settings: Settings, name: str, label: str | None, composed: bool, terms: Sequence[str]) -> None:
        """Description of the run: the resolved configuration as text and hyperparameters, and the chart layout.

        label: what differs from the preset, None where nobody knows. composed: losses may be composed. terms: the
        series that an adversarial model adds.
        """
        text = OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
        self.text(ALL, SETTINGS, "    " + text.replace("\n", "\n    "), 0)
        self._add(ALL, custom_scalars(layout(self.tasks, composed, terms)), 0)
        for described in hparams_summaries(settings, name, label):
            self._add(ALL, described, 0)

    def recall(self, values: Mapping[str, Any]) -> None:
        """A point of an earlier session, which is shown already: running means and compositions go on from it."""
        self._smoothed(values)
        self._hold(values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The series of one step."""
        self._hold({"step": step, **values})
        placed = [(*place_of(series), value) for series, value in values.items()]
        self._scalars(step, [*placed, *((task, LAMBDA, mean) for task, mean in self._smoothed(values).items())])

    def end_epoch(self, step: int, best: float) -> None:
        """After an epoch: the best mean validation score so far, and the compositions, which are logged when they
        change, as they stand: else their curves would end there."""
        for file in self._files.values():
            file.check()
        held = [(*place_of(series), value) for series, (at, value) in self._held.items() if at < step]
        self._scalars(step, [(ALL, BEST, best), *held])

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture (H, W, 4)."""
        self._add(ALL, image(tag, pixels, dataformats="HWC"), step)

    def result(self, step: int, folder: Path, text: str) -> None:
        """The end of the run in ``folder``: the pictures that were drawn there, and its summary in Markdown."""
        for tag, name in PICTURES.items():
            path = folder / name
            if path.exists():
                with Image.open(path) as drawn:
                    width, height = drawn.size
                picture = Summary.Image(
                    height=height, width=width, colorspace=4, encoded_image_string=path.read_bytes()
                )
                self._add(ALL, Summary(value=[Summary.Value(tag=tag, image=picture)]), step)
        self.text(ALL, RESULT, text, step)
        *_, ended = hparams({}, {})
        self._add(ALL, ended, step)

    def text(self, run: str, tag: str, text: str, step: int) -> None:
        """A text in Markdown, in the run of a task or in ALL."""
        self._add(run, text_pb(tag, text), step)

    def close(self) -> None:
        """Close every file, also after one that cannot be written; raises the OSError of that."""
        self._closing.close()

    def _add(self, run: str, summary: Any, step: int) -> None:
        self._files[run].add(summary, step)

    def _scalars(self, step: int, placed: Sequence[tuple[str, str, float]]) -> None:
        by_run: dict[str, list[Any]] = {}
        for run, tag, value in placed:
            by_run.setdefault(run, []).append(Summary.Value(tag=tag + self._blocks[run], simple_value=value))
        for run, listed in by_run.items():
            # one event for all of them: less to write than an event each
            self._add(run, Summary(value=listed), step)

    def _hold(self, values: Mapping[str, Any]) -> None:
        """Remember the compositions among the values of a step, and the step."""
        for series, value in values.items():
            if series.startswith(COMPOSED):
                self._held[series] = values["step"], value

    def _smoothed(self, values: Mapping[str, Any]) -> dict[str, float]:
        """By task the mean of the last lambdas, where these values have one."""
        means = {}
        for task, past in self._lambdas.items():
            value = values.get(LAMBDA_SERIES + task)
            if value is not None:
                past.append(value)
                means[task] = sum(past) / len(past)
        return means


def matrix_figure(matrix: Tensor, names: Sequence[str]) -> Figure:
    """D (T, T) as a picture: row t, column j is d L_t^query / d w_j; red rises, blue falls."""
    figure = new_figure(1.6 + 0.55 * len(names), 1.2 + 0.5 * len(names))
    axes = figure.subplots()
    bound = float(matrix.abs().max()) or 1.0
    image = axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-bound, vmax=bound)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("weight of support task")
    axes.set_ylabel("query loss of task")
    figure.colorbar(image)
    return figure

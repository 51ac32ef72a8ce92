"""TensorBoard of a run: scalars, one chart per quantity over all tasks, pictures of D, hyperparameters, the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lossrag.experiments.config.identity import Settings, flatten
from lossrag.experiments.plotting import new_figure
from lossrag.experiments.record.series import layout
from lossrag.tasks import Task

HPARAM_METRIC = "test/score_mean"


class TensorBoard:
    """Writes one run. Of an earlier session, the points from step ``resumed`` on are dropped: those of that very
    step may have been logged in part, or after the checkpoint."""

    def __init__(self, folder: Path, resumed: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=resumed if any(folder.glob("*")) else None)

    def describe(self, settings: Settings, tasks: Sequence[Task], composed: bool, terms: Sequence[str]) -> None:
        """Description of the run: the resolved configuration as text and hyperparameters, and the chart layout."""
        text = OmegaConf.to_yaml(OmegaConf.create(dict(settings)))
        self._writer.add_text("config", "    " + text.replace("\n", "\n    "), 0)
        self._writer.add_custom_scalars(layout(tasks, composed, terms))
        described = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in flatten(settings).items()}
        # add_hparams would open a second run; its three summaries belong into this one
        for summary in hparams(described, {HPARAM_METRIC: 0.0}):
            self._writer.file_writer.add_summary(summary)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture (H, W, 4)."""
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def text(self, tag: str, text: str, step: int) -> None:
        """A text in Markdown."""
        self._writer.add_text(tag, text, step)

    def sync(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


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

"""The digits suite: four tasks on one shared image. Nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.checks import check_inside, check_least
from lossrag.streams import Stream, generator
from lossrag.tasks.splits import split_train, stratified_mask
from lossrag.tasks.suite import SPLITS, DenseInputs, Examples, Suite, Task
from lossrag.tasks.table.columns import NumericColumn
from lossrag.tasks.table.preprocessing import TablePreprocessing
from lossrag.tasks.table.targets import TargetColumn

TEST_SHARE = 0.2

INK = 16.0
"""The darkest pixel."""

LOOPS = (1, 0, 0, 0, 1, 0, 1, 0, 2, 1)
"""Closed loops of the digits 0 to 9 as they are printed."""

TASKS = (
    Task("digit", "classification", 10, tuple("0123456789")),
    Task("parity", "classification", 2, ("even", "odd")),
    Task("loops", "classification", 3, ("none", "one", "two")),
    Task("centre", "regression", 2),
)


@dataclass(frozen=True)
class DigitsConfig:
    """Settings of the digits suite: ``rho`` = |query| / |support + query| and ``validation``, both in (0, 1).

    ``seed`` also draws the 20 % of the images that are the test split. Raises OptionError.
    """

    rho: float = 0.1
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_inside(self, "rho", "validation")
        check_least(self, 0, "seed")


def load_digits(config: DigitsConfig) -> Suite:
    """1,797 images (N, 64) in [0, 1], four tasks that share them: digit, parity, number of loops, centre.

    ``centre`` (N, 2) is the centre of mass of the ink, row and column, standardised by the training images.
    Source: scikit-learn's copy of the UCI optical recognition data (Alpaydin and Kaynak 1998).
    """
    # Imported when needed: it takes as long as importing torch.
    pixels, digits = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
    digits = digits.astype(np.int64)
    in_test = stratified_mask(digits, TEST_SHARE, generator(config.seed, Stream.TEST_SPLIT))
    train = np.flatnonzero(~in_test)
    keys = [pixels[i].tobytes() for i in train]
    places = split_train(keys, digits[train], config.rho, config.seed, config.validation)
    index = {split: train[rows] for split, rows in places.items()}
    index["test"] = np.flatnonzero(in_test)

    centre = centre_of_mass(pixels)
    fitted = np.concatenate([index["support"], index["query"]])
    mean, scale = centre[fitted].mean(0), centre[fitted].std(0)
    centre = (centre - mean) / scale
    place = replace(TASKS[-1], mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))
    tasks = (*TASKS[:-1], place)
    columns = (
        torch.from_numpy(digits),
        torch.from_numpy(digits % 2),
        torch.tensor(LOOPS)[torch.from_numpy(digits)],
        torch.from_numpy(centre.astype(np.float32)),
    )
    images = torch.from_numpy((pixels / INK).astype(np.float32))
    sizes = " / ".join(str(len(index[split])) for split in SPLITS)
    return Suite(
        name="digits",
        edition=f"scikit-learn digits, 8x8 images shared by all tasks, {sizes} images ({' / '.join(SPLITS)})",
        tasks=tasks,
        shared_input=True,
        splits={split: _examples(images, columns, torch.from_numpy(index[split])) for split in SPLITS},
        input_shape=(64,),
        preprocessing=_preprocessing(tasks),
    )


def _preprocessing(tasks: Sequence[Task]) -> TablePreprocessing:
    """Images as a table: ``pixel_0_0`` to ``pixel_7_7`` from 0 to 16, as scikit-learn calls them, and the targets."""
    pixels = tuple(NumericColumn(f"pixel_{row}_{column}", 0.0, INK, False) for row in range(8) for column in range(8))
    targets = tuple(
        TargetColumn(task.name, ("centre_row", "centre_column"), "regression", mean=task.mean, scale=task.scale)
        if task.kind == "regression"
        else TargetColumn(task.name, (task.name,), "binary" if task.outputs == 2 else "classification", task.labels)
        for task in tasks
    )
    return TablePreprocessing(targets, pixels, reading={"missing": [], "delimiter": None, "encoding": "utf-8"})


def _examples(images: Tensor, columns: tuple[Tensor, ...], rows: Tensor) -> tuple[Examples, ...]:
    inputs = DenseInputs(images[rows])
    return tuple(Examples(inputs, column[rows]) for column in columns)


def centre_of_mass(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre of mass (N, 2) of images (N, 64), in pixels from the upper left corner. No image is empty."""
    images = pixels.reshape(-1, 8, 8)
    mass = images.sum((1, 2))
    places = np.arange(8.0)
    row = (images.sum(2) * places).sum(1) / mass
    column = (images.sum(1) * places).sum(1) / mass
    return np.stack([row, column], axis=1)

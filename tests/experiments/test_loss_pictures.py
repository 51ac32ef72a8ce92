"""compositions.png, losses.png, the gradient curve and the projector, drawn from what a run has logged."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.text import Text

from lossrag.experiments.bank.words import curve_figure, in_words, sparkline
from lossrag.experiments.plotting import AREAS
from lossrag.experiments.record.composition_log import draw_compositions
from lossrag.experiments.record.composition_plot import compositions_figure
from lossrag.experiments.record.jsonl import iter_points
from lossrag.experiments.record.loss_map import loss_map_figure
from lossrag.experiments.record.plane import Plane
from lossrag.experiments.record.projector import write_projector
from lossrag.experiments.record.share_series import ShareSeries
from lossrag.lossbank import LOSSES

pytestmark = pytest.mark.pictures

POINTS = [
    {"step": step, "weight/A": 1.0}
    | {f"composition/A/{name}": share for name, share in zip(LOSSES, (0.3, 0.2, *[0.05] * 10), strict=False)}
    | {"composition/B/mae": step / 10, "composition/B/brier": 1 - step / 10}
    for step in range(1, 11)
]
USED = {"A": {"mae": 0.6, "one_minus_p": 0.3, "symmetric_ce": 0.02}, "B": {"huber": 1.0, "gone": 0.1}}


def test_stacked_areas_fill_the_panel():
    figure = compositions_figure(ShareSeries.of(POINTS))
    first, second = figure.axes
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("A", "B")
    assert first.get_xlabel() == "step"
    # seven in colour and the rest; two that add up to one need no rest
    assert len(first.collections) == 8
    assert len(second.collections) == 2
    drawn = [to_hex(area.get_facecolor()[0]).upper() for area in first.collections]
    assert set(drawn[:7]) == set(AREAS)
    assert drawn[7] == "#BBBBBB"
    for axes in figure.axes:
        assert max(vertex[1] for path in axes.collections[-1].get_paths() for vertex in path.vertices) == pytest.approx(
            1
        )
        colours = [to_hex(area.get_facecolor()[0]) for area in axes.collections]
        assert len(set(colours)) == len(colours)
    legend = [text.get_text() for text in second.get_legend().get_texts()]
    assert sorted(legend) == ["brier  0.00", "mae  1.00"]


def test_a_loss_has_its_colour_in_every_panel():
    points = [{"step": s, **{f"composition/{t}/mae": 0.7, f"composition/{t}/brier": 0.3}} for s in (1, 2) for t in "AB"]
    figure = compositions_figure(ShareSeries.of([{**points[0], **points[1]}, {**points[2], **points[3]}]))
    found = [
        {area.get_label().split()[0]: to_hex(area.get_facecolor()[0]) for area in axes.collections}
        for axes in figure.axes
    ]
    assert found[0] == found[1]


def test_a_single_moment_and_none():
    assert compositions_figure(ShareSeries.of(POINTS[:1])) is not None
    assert compositions_figure(ShareSeries.of([{"step": 1, "weight/A": 1.0}])) is None
    assert loss_map_figure({}) is None
    assert loss_map_figure({"A": {"nobody knows it": 1.0}}) is None


def test_long_series_are_thinned_and_keep_their_end():
    points = [{"step": step, "composition/A/mae": step / 5000} for step in range(1, 5001)]
    series = ShareSeries.of([*points, {"step": 5001, "weight/A": 1.0}])
    steps, shares = series.by_task()["A"]
    assert 200 <= len(steps) <= 402
    assert (steps[0], steps[-1], shares["mae"][-1]) == (1, 5000, 1.0)
    assert {b - a for a, b in pairwise(steps[:-1])} == {16}
    assert [share * 5000 for share in shares["mae"]] == pytest.approx(steps)
    assert series.step == 5001


def test_tasks_with_a_slash_in_their_name():
    assert ShareSeries.of([{"step": 1, "composition/topic/COMP/mae": 0.4}]).last() == {"topic/COMP": {"mae": 0.4}}


def test_the_projection_keeps_distances_as_well_as_a_plane_can():
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(20, 2)) @ np.linalg.qr(generator.normal(size=(7, 7)))[0][:2]
    plane = Plane.of(flat)
    places = plane.places(flat)
    assert plane.share.sum() == pytest.approx(1)
    distances = [np.linalg.norm(points[:, None] - points[None], axis=2) for points in (flat, places)]
    assert np.allclose(*distances)
    assert np.allclose(Plane.of(flat).places(flat), places)
    assert Plane.of(flat[:1]).places(flat[:1]).tolist() == [[0.0, 0.0]]


def test_the_map_names_what_is_used_and_nothing_overlaps():
    figure = loss_map_figure(USED)
    left, right = figure.axes
    assert "classification" in left.get_title()
    assert "regression" in right.get_title()
    texts = [text for axes in figure.axes for text in axes.texts]
    # equal geometries share a label; too small shares and unknown losses have none
    assert [text.get_text() for text in texts] == ["mae: A .60\none_minus_p: A .30", "huber: B 1.00"]
    everything = {"A": {name: 0.06 for name, loss in LOSSES.items() if loss.target_kind == "classification"}}
    figure = loss_map_figure(everything)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the lines to the points
    assert 5 < len(boxes) <= 14
    assert not [(a, b) for place, a in enumerate(boxes) for b in boxes[place + 1 :] if a.overlaps(b)]
    frame, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert frame.x0 <= legend.x0 <= legend.x1 <= frame.x1
    families = {text.get_text() for text in figure.legends[0].get_texts()}
    assert families == {loss.family for loss in LOSSES.values() if loss.target_kind == "classification"}


def test_a_run_leaves_pictures_that_can_be_drawn_again(train):
    directory = train(
        "loss.policy=gradient",
        "loss.candidates=[mae,cross_entropy,squared_error]",
        "train.epochs=1",
        "log.tensorboard=false",
    )
    names = ("compositions.png", "losses.png")
    before = {name: imread(directory / name) for name in names}
    for name in names:
        (directory / name).unlink()
    draw_compositions(directory, ShareSeries.of(iter_points(directory / "metrics.jsonl")))
    for name, picture in before.items():
        assert picture.shape[0] > 400
        assert picture.shape[1] > 900
        assert np.array_equal(imread(directory / name), picture)


def test_projector_files(tmp_path):
    for _ in range(2):  # again after a resume: nothing comes twice
        write_projector(tmp_path, {"classification", "regression"}, {"A": {"mae": 0.5, "one_minus_p": 0.5}, "B": {}})
    rows = (tmp_path / "projector" / "vectors.tsv").read_text().splitlines()
    labels = (tmp_path / "projector" / "metadata.tsv").read_text().splitlines()
    assert len(rows) == len(LOSSES) + 1
    assert labels[0] == "name\tfamily\ttargets"
    assert labels[-1] == "task A\ttask\tclassification"
    # mae and one_minus_p have one shape, so the task that is made of them has it, too
    task, mae = (np.array([float(value) for value in rows[row].split("\t")]) for row in (-1, list(LOSSES).index("mae")))
    assert np.allclose(task, mae, atol=1e-4)
    assert (tmp_path / "projector_config.pbtxt").read_text().count("embeddings") == 1


def test_words_and_curves_of_every_loss():
    for loss in LOSSES.values():
        assert in_words(loss), loss.name
        assert len(sparkline(loss)) == 48
    assert "lets go of samples that are far from right" in in_words(LOSSES["tukey"])
    assert "counts rare classes for more" in in_words(LOSSES["logit_adjusted_1"])
    assert "minds predictions above the target more than those below" in in_words(LOSSES["quantile_0.1"])
    assert in_words(LOSSES["triplet_0.2"])[-1] == "compares the samples of a batch with each other"
    curves = curve_figure(LOSSES["mae"], LOSSES["cross_entropy"]).axes[0].lines
    assert [line.get_label() for line in curves] == ["cross_entropy", "mae"]
    assert len(curve_figure(LOSSES["l1"], LOSSES["l1"]).axes[0].lines) == 1

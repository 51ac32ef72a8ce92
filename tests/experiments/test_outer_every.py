"""outer.every: the outer problem in every so many steps of a run, and joint passes between them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.run.build import build_problem, build_suite, passes_route
from lossrag.experiments.run.step import BatchStep
from lossrag.weighting import MultiTaskStep

OWN = ["tasks=toy", "model.filters=4", "train.batch_size=12", "weighting.scale=unit"]


def steps_of(*overrides):
    config, _ = load_config(list(overrides))
    problem = build_problem(config, build_suite(config), torch.device("cpu"))
    problem.model.double()
    return BatchStep.of(config, problem, 1)


def test_weights_move_in_every_third_step_alone(train):
    run = train("outer.every=3", "train.epochs=1", "train.batch_size=64", "log.every_steps=1", "log.tensorboard=false")
    points = [point for point in read_points(run / "metrics.jsonl") if "weight/digit" in point]
    assert len(points) > 8
    for before, after in pairwise(points):
        assert ("lambda/digit" in before) == (before["step"] % 3 == 0)
        assert (before["weight/digit"] != after["weight/digit"]) == (before["step"] % 3 == 0)


@pytest.mark.usefixtures("toy")
def test_between_outer_problems_a_step_is_the_uniform_one_with_the_weights_there_are(monkeypatch):
    shown = []
    plain = MultiTaskStep.__call__
    monkeypatch.setattr(
        MultiTaskStep,
        "__call__",
        lambda step, support, query=None, **more: shown.append((support, query)) or plain(step, support, query, **more),
    )
    seldom, often = steps_of(*OWN, "outer.every=2"), steps_of(*OWN, "outer.every=2")
    monkeypatch.setattr("lossrag.experiments.run.step.passes_route", lambda config, learns: "groups")
    for number in range(4):
        index = seldom.plan(0)[number % len(seldom.plan(0))]
        often(index, 0)
    monkeypatch.setattr("lossrag.experiments.run.step.passes_route", passes_route)
    for number in range(4):
        seldom(seldom.plan(0)[number % len(seldom.plan(0))], 0)
    due = [query is not None for _, query in shown]
    assert due == [False, True] * 4
    assert [callable(support) for support, _ in shown[4:]] == [True, False] * 2, "one joint pass between"
    for a, b in zip(seldom.problem.model.parameters(), often.problem.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)
    assert torch.allclose(seldom.step.task_weights, often.step.task_weights, rtol=1e-10)

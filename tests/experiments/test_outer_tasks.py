"""outer.tasks: the outer problem of a run over some of its tasks."""

from __future__ import annotations

import pytest
import torch

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.step import BatchStep

OWN = ["tasks=toy", "model.filters=4", "train.batch_size=12", "model.dropout=0", "model.vector_dropout=0"]
OWN += ["weighting.scale=unit", "weighting.alpha=1"]


def test_a_run_on_a_shared_input(train):
    run = train("outer.tasks=[digit]", "train.epochs=1", "log.every_steps=1", "log.tensorboard=false")
    points = [point for point in read_points(run / "metrics.jsonl") if "weight/digit" in point]
    for point in points:
        assert point["lambda/digit"] == 1.0
        assert "query/loss/digit" in point
        assert "query/loss/parity" not in point
        assert "query/accuracy/parity" not in point
    assert points[-1]["weight/parity"] != 1.0, "all weights are learned"


def test_a_name_that_is_no_task(lossrag):
    told = lossrag("train", "experiment=digits", "outer.tasks=[digti]")
    assert told.code == 2
    assert "outer.tasks names 'digti', which is no task: did you mean 'digit'" in " ".join(told.err.split())


def stepped(*overrides, number=4):
    config, _ = load_config(list(overrides))
    problem = build_problem(config, build_suite(config), torch.device("cpu"))
    problem.model.double()
    step = BatchStep.of(config, problem, 1)
    plan = step.plan(0)
    return step, [step(plan[n % len(plan)], 0) for n in range(number)]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("more", [[], ["model.trainable_vectors=true"], ["train.memory=low"]])
def test_a_task_with_inputs_of_its_own(more):
    """With one outer task d_c is its row of D, which a run over all tasks computes as well in its first step."""
    some, told = stepped(*OWN, *more, "outer.tasks=[three]")
    names = some.problem.suite.task_names
    every, whole = stepped(*OWN, *more, number=1)
    place = names.index("three")
    first, reference = told[0].record, whole[0].record
    assert first.hypergradient.shape == (1, len(names))
    assert torch.allclose(first.hypergradient[0], reference.hypergradient[place], rtol=1e-9, atol=1e-14)
    assert torch.allclose(first.next_weights, 1 - first.hypergradient[0], rtol=1e-9)
    assert first.lam.tolist() == [float(name == "three") for name in names]
    for outcome in told:
        assert outcome.query_scores.isnan().tolist() == [name != "three" for name in names]
    assert every.step.count == 1

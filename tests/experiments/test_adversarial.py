"""AdvMTL in a run: the update against autograd of the written total, what stays as it is, and the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from lossrag.experiments.config.schema import LossConfig, OuterConfig
from lossrag.experiments.run.adversarial import Adversary
from lossrag.experiments.run.problem import Problem
from lossrag.models import MultiTaskModel, TextCNN, orthogonality
from lossrag.tasks import SUITES
from lossrag.weighting import MetaWeighting, MultiTaskStep, Uniform, Weighting

LAMBDA, GAMMA = 0.3, 0.02
INDEX = tuple(torch.arange(rows) for rows in (4, 3, 5))
ADVMTL = ["model.sharing=shared_private", "model.adversarial=0.05", "model.orthogonal=0.01"]
TOY = ["tasks=toy", "train.epochs=1", "model.filters=4", "train.batch_size=12", "log.tensorboard=false"]


@dataclass(frozen=True)
class Given(Weighting):
    """Weights that are what they are; ``by_rows`` makes the step hold a gradient row per task."""

    def weigh(self, state, signals):
        return torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64), state


@dataclass(frozen=True)
class GivenByRows(Given):
    needs = MetaWeighting().needs

    def learn(self, state, hypergradient):
        return MetaWeighting().learn({**state, "lam": torch.full((3,), 1 / 3, dtype=torch.float64)}, hypergradient)


def make(adversarial=LAMBDA, orthogonal=GAMMA, penalty="paper", tasks=3):
    suite = SUITES["toy"].load(SUITES["toy"].config())
    splits = {name: each[:tasks] for name, each in suite.splits.items()}
    suite = replace(suite, tasks=suite.tasks[:tasks], splits=splits)
    torch.manual_seed(0)
    model = MultiTaskModel(
        lambda: TextCNN(suite.vectors.double(), filters=3, dropout=0.0),
        [task.outputs for task in suite.tasks],
        "shared_private",
        discriminated=adversarial > 0,
    ).double()
    adversary = Adversary(model, adversarial, orthogonal, penalty) if adversarial or orthogonal else None
    return Problem.create(suite, model, LossConfig(), OuterConfig(), torch.device("cpu"), adversary)


def stepped(problem, method, route, memory="rows", steps=1):
    """SGD at a learning rate of 1: what a parameter moved is its gradient."""
    parameters = list(problem.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    if problem.adversary is not None:
        problem.adversary.attach(optimizer)
    step = MultiTaskStep(trained, optimizer, method, problem.suite.task_names, memory)
    index = INDEX[: len(problem.suite.tasks)]
    for _ in range(steps):
        support = problem.batch_losses("support", index, route=route)[0]
        query = problem.batch_losses("query", index, route=route)[0] if method.needs.hypergradient else None
        record = step(support, query)
    return record


def task_loss(problem, split, task, logits):
    targets = problem.suite.splits[split][task].targets[INDEX[task]]
    if problem.suite.tasks[task].kind == "classification":
        return F.cross_entropy(logits, targets)
    return (logits - targets).square().mean()


def losses(problem, split="support"):
    """Task losses, discriminator losses and penalties, written out: no reversal, nothing of what is tested."""
    model, found = problem.model, ([], [], [])
    for task in range(len(problem.suite.tasks)):
        tokens = problem.suite.splits[split][task].inputs.gather(INDEX[task])
        shared, private = model.encoders[0](tokens), model.encoders[1 + task](tokens)
        logits = model.heads[task](torch.cat([shared, private], dim=1))
        found[0].append(task_loss(problem, split, task, logits))
        if model.discriminator is not None:
            told = model.discriminator.layer(shared)
            found[1].append(F.cross_entropy(told, torch.full((len(told),), task)))
        found[2].append((shared.T @ private).square().sum())
    return found


def expected_gradients(problem, weights):
    """(1/T) (sum_t w_t L_t - lambda sum_t L_adv,t + gamma sum_t L_diff,t) for the encoders and heads; for the
    discriminator lambda / T times the descent of its own loss."""
    tasks, told, penalties = losses(problem)
    T = len(tasks)
    named = [(name, p) for name, p in problem.model.named_parameters() if p.requires_grad]
    weighted = sum(w * loss for w, loss in zip(weights, tasks, strict=True))
    total = (weighted - LAMBDA * sum(told) + GAMMA * sum(penalties)) / T
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    return {
        name: (-g if name.startswith("discriminator") else g) for (name, _), g in zip(named, gradients, strict=True)
    }


ROUTES = {
    "one pass": (Uniform(), "joint", "rows", (1, 1, 1)),
    "one pass, weighted": (Given(), "joint", "rows", (2, 0, -1)),
    "a pass each": (Uniform(), "single", "rows", (1, 1, 1)),
    "rows": (MetaWeighting(), "groups", "rows", (1, 1, 1)),
    "rows, weighted": (GivenByRows(), "groups", "rows", (2, 0, -1)),
    "low memory, weighted": (GivenByRows(), "single", "low", (2, 0, -1)),
}


@pytest.mark.parametrize("name", ROUTES)
def test_the_update_is_the_gradient_of_the_total_with_weights_on_the_task_losses_alone(toy, name):
    method, route, memory, weights = ROUTES[name]
    problem = make()
    expected = expected_gradients(problem, weights)
    before = {name: p.detach().clone() for name, p in problem.model.named_parameters()}
    stepped(problem, method, route, memory)
    assert all(gradient is not None for gradient in expected.values())
    for key, gradient in expected.items():
        moved = before[key] - problem.model.get_parameter(key)
        assert torch.allclose(moved, gradient, rtol=1e-9, atol=1e-12), key
        assert gradient.any() or (weights[1] == 0 and key.startswith("heads.1")), key


@pytest.mark.parametrize("memory", ["rows", "low"])
def test_the_hypergradient_is_that_of_the_task_losses(toy, memory):
    """Nothing that is added depends on w, so D[t, j] = -(1/T) <grad L_t^q at the new point, grad L_j^s at the old>."""
    problem = make()
    parameters = [p for p in problem.model.parameters() if p.requires_grad]

    def rows(split):
        gradients = [torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses(problem, split)[0]]
        return [
            torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, each, strict=True)]
            )
            for each in gradients
        ]

    old = torch.stack(rows("support"))
    record = stepped(problem, MetaWeighting(scale="paper"), "single" if memory == "low" else "groups", memory)
    assert torch.allclose(record.hypergradient, -torch.stack(rows("query")) @ old.T / 3, rtol=1e-9, atol=1e-12)
    assert torch.allclose(record.query_losses, torch.stack(losses(problem, "query")[0]), rtol=1e-10)


def test_nothing_of_one_step_is_left_for_the_next(toy):
    """Low memory computes the support losses again after the update."""
    problem = make()
    stepped(problem, MetaWeighting(), "single", "low", steps=1)
    expected = expected_gradients(problem, (1, 1, 1))
    before = problem.model.discriminator.layer.weight.detach().clone()
    stepped(problem, Uniform(), "single")
    moved = before - problem.model.discriminator.layer.weight
    assert torch.allclose(moved, expected["discriminator.layer.weight"], rtol=1e-9, atol=1e-12)


def test_evaluation_and_records_show_the_task_losses_alone(toy):
    with_terms, without = make(), make(0, 0)
    assert with_terms.evaluate("validation").losses.equal(without.evaluate("validation").losses)
    a, b = (stepped(problem, Uniform(), "joint") for problem in (with_terms, without))
    assert a.support_losses.equal(b.support_losses)
    assert not with_terms.evaluate("validation").losses.equal(without.evaluate("validation").losses)


def test_either_term_alone(toy):
    told, _, penalties = None, None, None
    for adversarial, orthogonal in ((LAMBDA, 0.0), (0.0, GAMMA)):
        problem = make(adversarial, orthogonal)
        features = problem.model.outputs(problem.suite.splits["support"][1].inputs.gather(INDEX[1]), 1).features
        _, told, penalties = losses(problem)
        expected = LAMBDA * told[1] if adversarial else GAMMA * penalties[1]
        term = problem.adversary._weighted(problem.adversary._measure(1, features))
        assert term.item() == pytest.approx(expected.item())


def test_the_unit_penalty_reaches_the_term(toy):
    problem = make(0.0, 0.5, "unit")
    features = problem.model.outputs(problem.suite.splits["support"][0].inputs.gather(INDEX[0]), 0).features
    expected = 0.5 * orthogonality(*problem.model.parts(features), "unit")
    term = problem.adversary._weighted(problem.adversary._measure(0, features))
    assert term.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("route", "memory"), [("joint", "rows"), ("groups", "rows"), ("single", "low")])
def test_the_terms_are_measured_before_the_update(toy, route, memory):
    problem = make()
    _, told, penalties = losses(problem)
    right = []
    for task in range(3):
        tokens = problem.suite.splits["support"][task].inputs.gather(INDEX[task])
        named = problem.model.discriminator.layer(problem.model.encoders[0](tokens)).argmax(dim=1)
        right.append((named == task).double().mean())
    method = Uniform() if route == "joint" else MetaWeighting()
    stepped(problem, method, route, memory)
    measured = problem.adversary.measured()
    expected = {"discriminator/loss": told, "discriminator/accuracy": right, "orthogonality": penalties}
    assert list(measured) == list(expected) == problem.adversary.series()
    for name, values in expected.items():
        assert not measured[name].requires_grad
        assert torch.allclose(measured[name], torch.stack(values), rtol=1e-9, atol=1e-12), name
    assert 0 < float(measured["discriminator/accuracy"].mean()) < 1


def test_only_terms_that_are_on_are_measured(toy):
    for weights, names in (((LAMBDA, 0.0), ["loss", "accuracy"]), ((0.0, GAMMA), ["orthogonality"])):
        problem = make(*weights)
        stepped(problem, Uniform(), "joint")
        assert [name.removeprefix("discriminator/") for name in problem.adversary.measured()] == names


def test_one_task_has_nothing_to_hide(toy):
    problem, plain = make(orthogonal=0.0, tasks=1), make(0.0, 0.0, tasks=1)
    before = problem.model.discriminator.layer.weight.detach().clone()
    for each in (problem, plain):
        stepped(each, Uniform(), "joint", steps=3)
    assert problem.model.discriminator.layer.weight.equal(before)
    state = plain.model.state_dict()
    for name, value in problem.model.state_dict().items():
        assert name.startswith("discriminator") or torch.allclose(value, state[name], rtol=1e-12)


RUNS = {
    "uniform": ["weighting=uniform"],
    "metaweighting": [],
    "TchebycheffAdv": ["weighting=tchebycheff"],
    "metaweighting, low memory, refit": ["train.memory=low", "train.refit=true"],
    "a Gramian method": ["weighting=mgda", "model.penalty=unit"],
    "trainable vectors, lazy": ["weighting=uniform", "model.trainable_vectors=true", "optimizer.vectors=lazy"],
    "learned losses": ["loss.policy=gradient"],
    "the preset": ["experiment=advmtl", "tasks=toy"],
}


@pytest.mark.parametrize("name", RUNS)
def test_from_the_command_line(lossrag, toy, tmp_path, name):
    result = lossrag("train", *TOY, *ADVMTL, f"run.dir={tmp_path}/run", *RUNS[name])
    assert result.code == 0, result
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"].keys() == {"two", "three"}


def test_the_terms_change_a_run(lossrag, toy, tmp_path):
    found = []
    for number, overrides in enumerate((ADVMTL[:1], ADVMTL[:2], ADVMTL)):
        folder = tmp_path / str(number)
        assert lossrag("train", *TOY, "weighting=uniform", *overrides, f"run.dir={folder}").code == 0
        found.append(json.loads((folder / "summary.json").read_text())["test_loss"]["value"])
    assert len(set(found)) == 3


@pytest.mark.parametrize("overrides", [ADVMTL[:2], [ADVMTL[0], ADVMTL[2]]])
def test_tasks_on_one_input_cannot_be_told_apart(lossrag, tmp_path, overrides):
    error = lossrag("train", "experiment=digits", *overrides, f"run.dir={tmp_path}/run").error
    assert "those of 'digits' share theirs: set model.adversarial=0 model.orthogonal=0" in error


def test_shared_private_alone_works_on_one_input(train):
    assert (train("model.sharing=shared_private", "log.tensorboard=false") / "summary.json").exists()


def test_methods_of_shared_features_have_none_here(lossrag, toy):
    error = lossrag("train", *TOY, ADVMTL[0], "weighting=mgda_ub").error
    assert "set model.sharing=hard, or choose another weighting" in error


def test_a_plain_model_is_told_what_to_set(lossrag, toy):
    error = lossrag("train", *TOY, "model.adversarial=0.05").error
    assert "set model.sharing=shared_private, or model.adversarial=0" in error

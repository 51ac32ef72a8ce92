"""What methods ask a step for: every combination filled whole, against autograd, or refused when the step is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import pytest
import torch

from lossrag import ConfigError
from lossrag.experiments.run import task_groups
from lossrag.weighting import (
    DTP,
    DWA,
    WEIGHTINGS,
    HypergradientSpec,
    MetaWeighting,
    MultiDDS,
    MultiTaskStep,
    Needs,
    Outer,
    Uniform,
    Weighting,
)
from tests.weighting.problems import T, by_autograd, losses_of, make, representation_gramian, trained

LR = 0.1


@dataclass(frozen=True)
class Asking(Weighting):
    """Weights 1, 2, ... T; keeps what it asked for."""

    asked: Needs = Needs()  # noqa: RUF009 - frozen
    heard: list[object] = field(default_factory=list)

    @property
    def needs(self):
        return self.asked

    def init(self, tasks, device):
        return {"weights": torch.arange(1.0, tasks + 1, dtype=torch.float64)}

    def weigh(self, state, signals):
        self.heard.append(signals)
        return state["weights"], state

    def learn(self, state, hypergradient):
        self.heard.append(hypergradient)
        lam = torch.full_like(state["weights"], 1 / len(state["weights"]))
        return state, Outer(lam, lam @ hypergradient, torch.zeros(()), torch.zeros(()))


def test_the_needs_of_the_methods():
    outer = HypergradientSpec()
    known = {
        "metaweighting": Needs(losses=False, hypergradient=outer),
        "multi_dds": Needs(gramian="all", hypergradient=replace(outer, scale="unit")),
        "mgda": Needs(gramian="shared", applies_to="shared"),
        "mgda_ub": Needs(representation="rows", applies_to="shared"),
        "gradnorm": Needs(gramian="shared"),
        "epo": Needs(gramian="all"),
        "pareto_mtl": Needs(gramian="all"),
        "dtp": Needs(scores=True),
        "dwa": Needs(epoch=True),
        "single_task": Needs(shares_parameters=False),
    }
    for name in WEIGHTINGS:
        expected = known["mgda"] if name.startswith("torchjd/") else known.get(name, Needs())
        assert WEIGHTINGS[name]().needs == expected, name
    shared = MultiDDS(parameters="shared").needs
    assert shared.gramian == shared.hypergradient.parameters == "shared"


GRAMIANS, ALIGNMENTS, OUTER = (None, "shared", "all"), (None, "rows", "mean"), (None, HypergradientSpec())


@pytest.mark.parametrize("kind", ["shared", "shared, watched", "single", "groups", "groups of two", "joint, apart"])
def test_every_combination_is_filled(kind, monkeypatch):
    monkeypatch.setattr(task_groups, "GROUP_ROWS", 10 if kind == "groups of two" else 100)
    plain = kind.removesuffix(", watched").removesuffix(" of two")
    shared_input = plain == "shared"
    for gramian, align, outer, applies_to in product(GRAMIANS, ALIGNMENTS, OUTER, ("all", "shared")):
        model, inputs = make(plain)
        rows, own, at_features = by_autograd(model, inputs)
        asked = Needs(True, gramian, align, True, True, outer, applies_to)
        parameters, method = trained(model), Asking(asked)
        optimizer = torch.optim.SGD(parameters, lr=LR)
        step = MultiTaskStep(parameters, optimizer, method, T, model=model if "watched" in kind else None)
        losses, objective = losses_of(plain, model, inputs)
        query = losses_of(plain, model, inputs)[0] if outer else None
        record = step(losses, query, epoch=3, scores=objective.scores, representation=objective.representation)
        signals = method.heard[0]
        assert (signals.epoch, signals.step) == (3, 1)
        assert torch.equal(signals.scores, objective.scores())
        assert torch.equal(signals.losses, record.support_losses)
        everything = torch.cat([rows, torch.block_diag(*own.unsqueeze(1))], dim=1)
        if gramian is None:
            assert signals.gramian is None
        else:
            J = rows if gramian == "shared" else everything
            assert torch.allclose(signals.gramian, J @ J.T)
        if align is None:
            assert signals.representation is None
        else:
            assert torch.allclose(signals.representation, representation_gramian(at_features, align, shared_input))
        weights = torch.arange(1.0, T + 1, dtype=torch.float64)
        head_weights = weights if applies_to == "all" else torch.ones_like(weights)
        expected = torch.cat([weights @ rows, (head_weights[:, None] * own).flatten()]) / T
        assert torch.allclose(torch.cat([p.grad.flatten() for p in parameters]), expected)
        if outer:
            new_rows, new_own, _ = by_autograd(model, inputs)
            new = torch.cat([new_rows, torch.block_diag(*new_own.unsqueeze(1))], dim=1)
            assert torch.allclose(method.heard[1], -LR / T * new @ everything.T)


def made(method, **options):
    theta = torch.zeros(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), method, ["a", "b"], **options)
    return theta, step, [lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2]


BARE = MetaWeighting().needs


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"losses": True}, "reads losses before the update"),
        ({"gramian": "all", "scores": True}, "reads the Gramian, scores before the update"),
        ({"representation": "rows"}, "reads the representation before the update"),
        ({"applies_to": "shared"}, "leaves the tasks' own parameters unweighted, which memory='low' cannot"),
    ],
)
def test_low_memory_refuses_what_it_cannot_fill(changes, part):
    method = Asking(replace(BARE, **changes))
    with pytest.raises(ConfigError, match=rf"MultiTaskStep: Asking {part}.* use memory='rows'"):
        made(method, memory="low")
    made(method)
    made(Asking(replace(method.asked, hypergradient=None)), memory="low")


@pytest.mark.parametrize(
    ("needs", "part"),
    [
        ({"gramian": "own"}, "Needs: gramian='own' is unknown"),
        ({"representation": "row"}, "representation='row' is unknown: did you mean 'rows'"),
        ({"applies_to": "heads"}, "applies_to='heads' is unknown"),
        ({"shares_parameters": False, "gramian": "shared"}, "shares_parameters=False leaves no shared parameters"),
        ({"shares_parameters": False, "representation": "rows"}, "shares_parameters=False"),
        ({"shares_parameters": False, "applies_to": "shared"}, "shares_parameters=False"),
        (
            {"shares_parameters": False, "hypergradient": HypergradientSpec(parameters="shared")},
            "parameters of the hypergradient must be 'all'",
        ),
    ],
)
def test_needs_that_cannot_be(needs, part):
    with pytest.raises(ConfigError, match=part):
        Needs(**needs)


def test_what_nothing_is_asked_of_hears_of_nothing():
    _, step, losses = made(Asking())

    def scores():
        raise AssertionError

    step(losses, epoch=4, scores=scores, representation=scores)
    (signals,) = step.weighting.heard
    assert signals.gramian is signals.representation is signals.scores is None


@pytest.mark.parametrize("gramian", [None, "shared"])
def test_scores_are_asked_for_once_between_losses_and_update(gramian):
    theta, step, losses = made(Asking(Needs(scores=True, gramian=gramian)))
    order = []

    def loss(t):
        order.append(f"loss {t}")
        return losses[t]()

    def scores():
        order.append("scores")
        assert theta.tolist() == [0.0, 0.0]
        return torch.tensor([0.25, 0.5], requires_grad=True)

    step([lambda: loss(0), lambda: loss(1)], scores=scores)
    assert order == ["loss 0", "loss 1", "scores"]
    assert theta[0] != 0
    (signals,) = step.weighting.heard
    assert signals.scores.tolist() == [0.25, 0.5]
    assert not signals.scores.requires_grad


def test_what_is_missing_is_named_before_anything_is_computed():
    for method, name in ((DTP(), "scores"), (DWA(), "epoch"), (Asking(Needs(representation="rows")), "representation")):
        _, step, _ = made(method)

        def loss():
            raise AssertionError

        with pytest.raises(ConfigError, match=f"{type(method).__name__} needs {name}: pass {name}="):
            step([loss, loss])
        assert step.count == 0


def test_wrong_number_of_scores():
    _, step, losses = made(DTP())
    with pytest.raises(ConfigError, match=r"expected 2 scores, one per task, got shape \(3,\)"):
        step(losses, scores=lambda: torch.ones(3))


def test_the_name_of_the_steps_own_count_is_taken():
    """A method that counted under it would be stored without its count."""

    class Counting(Uniform):
        def init(self, tasks, device):
            return {**super().init(tasks, device), "count": torch.tensor(0)}

    with pytest.raises(ConfigError, match="the state of Counting must not have the key 'count'"):
        made(Counting())

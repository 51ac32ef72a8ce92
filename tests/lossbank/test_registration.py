"""Own losses: what is read from their signature, and what registration refuses, by name."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from lossrag import ConfigError
from lossrag.lossbank import LOSSES, register_loss
from lossrag.lossbank.library.contract import read_arguments
from tests.lossbank.oracles import built_in


@pytest.fixture(autouse=True)
def _library_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", {name: LOSSES[name] for name in built_in()})


def register(function, name="my_bad", **options):
    options = {"family": "test", "target_kind": "classification", "reference": "none", **options}
    return register_loss(name, **options)(function)


def pull(rows, targets):
    """Relational: squared distance to the mean of all rows of the batch."""
    return (rows - rows.mean(0)).square().sum(1)


def wrong_argument(logits, targets, *, feature):
    return logits.sum(1)


def stateful():
    calls = [0]

    def function(logits, targets):
        calls[0] += 1
        return logits.sum(1) * calls[0]

    return function


class Learned(nn.Module):
    """Holds a temperature that nobody would train."""

    def __init__(self, trained=True):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5), requires_grad=trained)

    def forward(self, logits, targets, *, power=2.0):
        return (logits * self.scale).softmax(1).pow(power).sum(1)


class Elsewhere:
    """A function that reads a parameter that it was not given."""

    def __init__(self):
        self.scale = nn.Parameter(torch.ones(1, 1))

    def __call__(self, logits, targets):
        return (logits * self.scale).sum(1)


def into(place):
    """Works in place on what it computed itself, in a way that autograd notices, or on what it was given."""

    def function(logits, targets, *, features, class_counts):
        own = logits.softmax(1)
        value = own.square().sum(1) + features.sum(1) * class_counts.sum()
        given = {"logits": logits, "targets": targets, "features": features, "class_counts": class_counts}
        {"own": own, **given}[place].add_(1)
        return value

    return function


class WithoutBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits):
        return logits.square().sum(1)

    @classmethod
    def of(cls, logits, targets):
        return cls.apply(logits)


def in_numpy(logits, targets):
    return torch.from_numpy(logits.numpy() ** 2).sum(1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Learned(), r"holds trainable parameters \(scale\), which no optimiser of a run would train"),
        (Learned().forward, r"holds trainable parameters \(a tensor \(\)\)"),
        (partial(Learned()), r"holds trainable parameters \(a tensor \(\)\)"),
        (Elsewhere(), r"holds trainable parameters \(a tensor \(1, 1\)\)"),
        (into("own"), "autograd cannot follow it back, RuntimeError: one of the variables.*not p -= 1"),
        (into("logits"), "writes into its logits, which other losses read after it"),
        (into("targets"), "writes into its targets"),
        (into("features"), "(writes into its features|autograd cannot follow it back)"),
        (into("class_counts"), "writes into its class_counts"),
        (WithoutBackward.of, "autograd cannot follow it back, NotImplementedError"),
        (in_numpy, "raised RuntimeError: Can't call numpy"),
        (lambda logits, targets: logits.sum(), r"one value per sample, shape \(6,\) for 6 samples, got \(\)"),
        (lambda logits, targets: logits, r"shape \(6,\) for 6 samples, got \(6, 2\)"),
        (lambda logits, targets: 1.0, "must return a tensor, got float"),
        (lambda logits, targets: logits.detach().sum(1), "gives no gradient to the logits: compute"),
        (lambda logits, targets: logits.sum(1) * 0, "gives no gradient to the logits: it is zero"),
        (lambda logits, targets: logits.sum(1) / 0, "not finite"),
        (lambda logits, targets: (logits * 0).sum(1).sqrt(), "not finite"),
        (lambda logits, targets: logits @ logits, "raised RuntimeError: mat1 and mat2"),
        (lambda logits, targets: logits[:, 2], r"raised IndexError.*logits \(B, K\) = \(6, 2\)"),
        (lambda logits, targets: (logits - targets).sum(1), "raised RuntimeError"),
        (pull, "depends on the other samples.*relational=True"),
        (lambda logits, targets, *, features: pull(features, targets), "relational=True"),
        (lambda logits, targets, *, features: features.detach().sum(1), "no gradient to the logits or the features"),
        (lambda logits, targets, *, class_counts: logits.sum(1) / (class_counts[targets] * 0), "not finite"),
        (stateful(), "other values for the same inputs"),
        (wrong_argument, "asks for 'feature', which no task has: did you mean 'features'"),
        (lambda logits: logits.sum(1), r"must take \(logits, targets\)"),
        (lambda logits, features: logits.sum(1), r"must take \(logits, targets\)"),
        (torch.add, "cannot read the arguments"),
    ],
)
def test_refuses(function, message):
    with pytest.raises(ConfigError, match=message) as caught:
        register(function)
    assert "my_bad" in str(caught.value)
    assert "my_bad" not in LOSSES


def breaks_on_one_sample(logits, targets, *, features):
    return pull(features, targets) - torch.tensor(len(targets) - 1.0).log()


def breaks_on_one_class(logits, targets, *, features):
    others = (targets != targets[0]).sum() + (len(targets) == 1)
    return pull(features, targets) - others.log()


@pytest.mark.parametrize(
    ("function", "where"),
    [(breaks_on_one_sample, "one sample"), (breaks_on_one_class, "where all targets are the same")],
)
def test_refuses_a_relational_loss_that_breaks_on_odd_batches(function, where):
    with pytest.raises(ConfigError, match=f"'my_bad' is not finite.*in a batch.*{where}"):
        register(function, relational=True)


def test_a_module_without_trainable_parameters_is_a_loss():
    """Its hyperparameters are those of ``forward``."""
    register(Learned(trained=False), "my_module")
    loss = LOSSES["my_module"]
    assert loss.hyperparameters == {"power": 2.0}
    assert loss(torch.zeros(1, 2), torch.tensor([0])).tolist() == [0.5]


def test_refuses_a_loss_on_pairs_that_asks_for_labels_and_does_not_heed_them():
    def heeds(logits, targets, *, features, labelled):
        mean = (features * labelled[:, None]).sum(0) / labelled.sum().clamp(min=1)
        return (features - mean).square().sum(1)

    def ignores(logits, targets, *, features, labelled):
        return pull(features, targets)

    register(heeds, "my_heeding", relational=True)
    assert LOSSES["my_heeding"].needs == {"features", "labelled"}
    with pytest.raises(
        ConfigError, match="'my_bad' asks for labelled, yet its values change with samples that are not"
    ):
        register(ignores, relational=True)


def test_the_cause_is_kept():
    with pytest.raises(ConfigError) as caught:
        register(lambda logits, targets: logits.sum(1) + {}["gamma"])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_loss_of_values_is_told_what_it_got():
    with pytest.raises(ConfigError, match=r"target_kind 'classification', integer classes \(B,\) as targets"):
        register(lambda logits, targets: (logits - targets).square().mean(1))


def test_names_and_kinds():
    with pytest.raises(ConfigError, match="'huber' is taken"):
        register(lambda logits, targets: (logits - targets).sum(1), "huber", target_kind="regression")
    with pytest.raises(ConfigError, match="target_kind must be one of"):
        register(lambda logits, targets: logits.sum(1), target_kind="ranking")
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        LOSSES["crossentropy"]


def powers(logits, targets, *, exponent=2.0, scale=1, reduction="none", strict=False):
    return scale * (logits - targets).abs().pow(exponent).mean(1)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({}, "variants is empty"),
        ({"power_2": {}}, "must be called 'my_power' or 'my_power_...', got 'power_2'"),
        ({"my_power_3": {"exponnet": 3}}, "'my_power_3' has no hyperparameter 'exponnet': did you mean 'exponent'"),
        ({"my_power_3": {"reduction": 3}}, "has no hyperparameter 'reduction'"),
        ({"my_power_3": {"exponent": "3"}}, "'exponent' must be a number, got '3'"),
        ({"my_power_2": {}, "my_power_nan": {"scale": float("nan")}}, "'my_power_nan' is not finite"),
    ],
)
def test_refuses_variants(variants, message):
    before = set(LOSSES)
    with pytest.raises(ConfigError, match=message):
        register(powers, "my_power", target_kind="regression", variants=variants)
    assert set(LOSSES) == before


def test_variants_replace_the_base_name():
    register(powers, "my_power", target_kind="regression", variants={"my_power_2": {}, "my_power_4": {"exponent": 4}})
    assert "my_power" not in LOSSES
    assert LOSSES["my_power_2"].hyperparameters == {"exponent": 2.0, "scale": 1}
    assert LOSSES["my_power_4"].hyperparameters == {"exponent": 4.0, "scale": 1}
    assert LOSSES["my_power_4"](torch.full((1, 1), 2.0), torch.zeros(1, 1)).tolist() == [16.0]


def test_a_variant_without_any_hyperparameter():
    with pytest.raises(ConfigError, match="has no hyperparameter 'gamma': it has none"):
        register(lambda logits, targets: logits.sum(1), variants={"my_bad_1": {"gamma": 1}})


def test_what_a_loss_needs_is_read_from_its_signature():
    def function(logits, targets, class_counts, *, features, margin=0.5):
        return (logits.sum(1) + features.sum(1) * margin) * class_counts[targets]

    register(function, "my_both")
    loss = LOSSES["my_both"]
    assert loss.needs == {"features", "class_counts"}
    assert loss.hyperparameters == {"margin": 0.5}
    logits, targets, features, counts = torch.ones(2, 2), torch.tensor([0, 1]), torch.ones(2, 4), torch.tensor([1.0, 3])
    assert loss(logits, targets, features=features, class_counts=counts).tolist() == [4.0, 12.0]
    with pytest.raises(ConfigError, match="Loss 'my_both' needs features, got none"):
        loss(logits, targets, class_counts=counts)
    with pytest.raises(ConfigError, match="Loss 'my_both' needs class_counts, got none"):
        loss(logits, targets, features=features)


def test_a_relational_loss_of_the_features_alone():
    register(lambda logits, targets, *, features: pull(features, targets), "my_pull", relational=True)
    assert LOSSES["my_pull"].relational


def test_what_a_loss_does_not_need_is_ignored():
    value = LOSSES["brier"](torch.zeros(1, 4), torch.tensor([2]), features=torch.ones(1, 3), class_counts=torch.ones(4))
    assert value.tolist() == [0.75]


def test_a_function_of_anything_may_be_registered():
    assert read_arguments("my_any", lambda *arguments, **options: arguments) == (frozenset(), {})


def test_an_entry_is_immutable_and_hashable():
    loss = LOSSES["focal_2"]
    with pytest.raises(TypeError):
        loss.hyperparameters["gamma"] = 3.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.name = "other"
    assert loss in {loss}


def test_registration_works_without_grad_mode():
    with torch.no_grad():
        register(lambda logits, targets: logits.sum(1), "my_sum")
    assert "my_sum" in LOSSES

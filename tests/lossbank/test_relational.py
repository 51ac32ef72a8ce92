"""Losses on the features of a batch: plain loops, pytorch-metric-learning, and the batches that break such losses."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers

from lossrag.lossbank import LOSSES
from tests.lossbank.oracles import batch_for, built_in, normal

EPSILON = 1e-8


def unit(row):
    length = math.sqrt(sum(value * value for value in row) + EPSILON)
    return [value / length for value in row]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) + EPSILON)


def split(i, y):
    """Class-mates and strangers of a sample."""
    mates = [a for a in range(len(y)) if a != i and y[a] == y[i]]
    return mates, [a for a in range(len(y)) if y[a] != y[i]]


def contrastive(temperature, mates_below):
    def formula(i, f, y):
        def similarity(a):
            return math.exp(dot(f[i], f[a]) / temperature)

        mates, strangers = split(i, y)
        total = 0.0
        for p in mates:
            below = sum(map(similarity, strangers)) + sum(map(similarity, mates if mates_below else [p]))
            total -= math.log(similarity(p) / below)
        return total / len(mates) if mates else 0.0

    return formula


def triplet(margin):
    def formula(i, f, y):
        mates, strangers = split(i, y)
        if not mates or not strangers:
            return 0.0
        farthest = max(distance(f[i], f[a]) for a in mates)
        return max(0.0, farthest - min(distance(f[i], f[a]) for a in strangers) + margin)

    return formula


def centre(i, f, y):
    own = [f[a] for a in range(len(y)) if y[a] == y[i]]
    mean = [sum(column) / len(own) for column in zip(*own, strict=True)]
    return sum((a - b) ** 2 for a, b in zip(f[i], mean, strict=True)) / 2


FORMULAS = {
    "supervised_contrastive_0.1": contrastive(0.1, mates_below=True),
    "supervised_contrastive_0.5": contrastive(0.5, mates_below=True),
    "nt_xent_0.1": contrastive(0.1, mates_below=False),
    "nt_xent_0.5": contrastive(0.5, mates_below=False),
    "triplet_0.2": triplet(0.2),
    "triplet_0.5": triplet(0.5),
    "centre": centre,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    batch = batch_for(name)
    f, y = [unit(row) for row in batch.features.tolist()], batch.targets.tolist()
    expected = [FORMULAS[name](i, f, y) for i in range(len(y))]
    assert batch.values(name).tolist() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert sum(expected) > 0


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == set(built_in("relational"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(
    ("features", "targets"),
    [
        (normal(1, 5), [0]),
        (normal(4, 5), [2, 2, 2, 2]),
        (normal(3, 5), [0, 1, 2]),
        (torch.zeros(4, 5), [0, 0, 1, 1]),
        (torch.ones(4, 5), [0, 0, 1, 1]),
        (1e4 * normal(4, 5), [0, 0, 1, 1]),
    ],
    ids=["one sample", "one class", "all classes once", "zero features", "equal features", "large features"],
)
def test_awkward_batches(name, features, targets, dtype):
    features = features.to(dtype).requires_grad_()
    values = LOSSES[name](torch.zeros(len(targets), 3, dtype=dtype), torch.tensor(targets), features=features)
    (gradient,) = torch.autograd.grad(values.sum(), features)
    assert values.dtype == dtype
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    if len(targets) == len(set(targets)):
        assert values.abs().max() < 1e-2  # bfloat16 rounds the mean of one feature
        assert not gradient.isnan().any()


@pytest.mark.parametrize("name", FORMULAS)
def test_the_size_of_the_features_does_not_count(name):
    batch = batch_for(name)
    larger = LOSSES[name](batch.logits, batch.targets, features=5 * batch.features)
    torch.testing.assert_close(larger, batch.values(name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize(("ours", "theirs"), [("supervised_contrastive", "SupConLoss"), ("nt_xent", "NTXentLoss")])
def test_contrastive_like_metric_learning(ours, theirs, temperature):
    name = f"{ours}_{temperature}"
    batch = batch_for(name)
    loss = getattr(losses, theirs)(temperature=temperature, reducer=reducers.DoNothingReducer())
    part = loss(batch.features, batch.targets)["loss"]
    values = batch.values(name)
    if part["reduction_type"] == "element":
        torch.testing.assert_close(part["losses"], values, rtol=1e-6, atol=1e-6)
        return
    anchors = part["indices"][0]
    for i in anchors.unique():
        torch.testing.assert_close(part["losses"][anchors == i].mean(), values[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_triplet_like_metric_learning(margin):
    name = f"triplet_{margin}"
    batch = batch_for(name)
    hardest = miners.BatchHardMiner()(batch.features, batch.targets)
    loss = losses.TripletMarginLoss(margin=margin, reducer=reducers.DoNothingReducer())
    part = loss(batch.features, batch.targets, hardest)["loss"]
    anchors = part["indices"][0]
    assert len(anchors) == 6  # classes 2 and 3 occur once
    torch.testing.assert_close(part["losses"], batch.values(name)[anchors], rtol=1e-6, atol=1e-6)

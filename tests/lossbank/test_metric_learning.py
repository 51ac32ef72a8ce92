"""Losses of pytorch-metric-learning in the library."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers

from lossrag import ConfigError
from lossrag.lossbank import LOSSES, from_metric_learning
from tests.lossbank.oracles import batch_for, built_in


@pytest.fixture(autouse=True)
def _library_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(LOSSES, "_entries", {name: LOSSES[name] for name in built_in()})


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.delitem(sys.modules, "pytorch_metric_learning.losses", raising=False)
    with pytest.raises(ConfigError, match=r"my_pml.*pip install .*\[metric-learning\]"):
        from_metric_learning("my_pml", object())


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize(("ours", "theirs"), [("supervised_contrastive", "SupConLoss"), ("nt_xent", "NTXentLoss")])
def test_the_same_as_our_own(ours, theirs, temperature):
    given = getattr(losses, theirs)(temperature=temperature)
    loss = from_metric_learning("my_pml", given)
    assert loss is LOSSES["my_pml"]
    assert loss.relational
    assert loss.needs == {"features"}
    batch = batch_for("my_pml")
    torch.testing.assert_close(batch.values("my_pml"), batch.values(f"{ours}_{temperature}"), rtol=1e-6, atol=1e-6)
    assert type(given.reducer).__name__ != "DoNothingReducer"


def test_with_a_miner():
    from_metric_learning("my_pml", losses.TripletMarginLoss(margin=0.2), miner=miners.BatchHardMiner())
    batch = batch_for("my_pml")
    torch.testing.assert_close(batch.values("my_pml"), batch.values("triplet_0.2"), rtol=1e-6, atol=1e-6)


def test_pairs_are_averaged_for_each_anchor():
    """Contrastive loss: |f_i - f_a| with class-mates, max(0, 1 - |f_i - f_a|) with others, each averaged."""
    from_metric_learning("my_pml", losses.ContrastiveLoss())
    batch = batch_for("my_pml")
    unit = torch.nn.functional.normalize(batch.features)
    expected = []
    for i, y in enumerate(batch.targets):
        distance = [float((unit[i] - other).norm()) for other in unit]
        mates = [d for a, d in enumerate(distance) if a != i and batch.targets[a] == y]
        strangers = [max(0.0, 1 - d) for a, d in enumerate(distance) if batch.targets[a] != y]
        expected.append(sum(mates) / max(1, len(mates)) + sum(strangers) / len(strangers))
    assert batch.values("my_pml").tolist() == pytest.approx(expected, rel=1e-6)


TAKEN = {
    "AngularLoss": "pos_pair",
    "CircleLoss": "element",
    "ContrastiveLoss": "pairs",
    "FastAPLoss": "element",
    "GeneralizedLiftedStructureLoss": "element",
    "InstanceLoss": "element",
    "IntraPairVarianceLoss": "pairs",
    "LiftedStructureLoss": "pos_pair",
    "MarginLoss": "triplet",
    "MultiSimilarityLoss": "element",
    "NCALoss": "element",
    "NPairsLoss": "element",
    "NTXentLoss": "pos_pair",
    "SignalToNoiseRatioContrastiveLoss": "pairs",
    "SupConLoss": "element",
    "TripletMarginLoss": "triplet",
    "TupletMarginLoss": "pos_pair",
}
"""Every loss of the package on elements, pairs or tuples that has no parameters, and what its partial losses are of.
Some give them as columns (n, 1)."""


@pytest.mark.parametrize("name", TAKEN)
def test_losses_of_elements_pairs_and_tuples_are_taken(name):
    """Their values, by a plain loop over the partial losses that the package gives."""
    from_metric_learning("my_pml", getattr(losses, name)())
    batch = batch_for("my_pml")
    theirs = getattr(losses, name)()
    theirs.reducer = reducers.DoNothingReducer()
    expected = [0.0] * 8
    for part in theirs(batch.features, batch.targets).values():
        if not torch.is_tensor(part["losses"]):
            continue
        indices = part["indices"]
        anchors = (indices if torch.is_tensor(indices) else indices[0]).tolist()
        for i in range(8):
            own = [float(value) for anchor, value in zip(anchors, part["losses"], strict=True) if anchor == i]
            expected[i] += sum(own) / max(len(own), 1)
    assert batch.values("my_pml").tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    halves = batch.to(torch.float16).values("my_pml")
    assert halves.isfinite().all()


@pytest.mark.parametrize("name", ["MultiSimilarityLoss", "TripletMarginLoss", "SupConLoss"])
def test_samples_without_a_label_are_not_shown(name):
    loss = from_metric_learning("my_pml", getattr(losses, name)())
    batch = batch_for("my_pml")
    gaps = torch.tensor([False, True, False, False, True, False, False, False])
    values = loss(batch.logits, batch.targets.masked_fill(gaps, -100), features=batch.features)
    assert values[gaps].tolist() == [0.0, 0.0]
    torch.testing.assert_close(values[~gaps], batch[~gaps].values("my_pml"))


@pytest.mark.parametrize("shape", [(3, 1), (6, 2)])
def test_refuses_partial_losses_that_are_not_one_for_each(shape):
    class Odd(losses.BaseMetricLossFunction):
        def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
            values = embeddings.sum() * torch.ones(shape)
            return {"loss": {"losses": values, "indices": torch.arange(6), "reduction_type": "element"}}

    message = re.escape(f"'my_pml' gives partial losses {shape} for 6 anchors (element)")
    with pytest.raises(ConfigError, match=message):
        from_metric_learning("my_pml", Odd())


@pytest.mark.parametrize("name", ["DynamicSoftMarginLoss", "PNPLoss", "SmoothAPLoss", "VICRegLoss"])
def test_others_are_refused_with_a_reason(name):
    with pytest.raises(ConfigError, match=r"Loss 'my_pml' (gives one number per batch|raised ValueError: )"):
        from_metric_learning("my_pml", getattr(losses, name)())


def test_a_batch_without_pairs_costs_nothing():
    loss = from_metric_learning("my_pml", losses.NTXentLoss())
    features = torch.ones(1, 4, requires_grad=True)
    values = loss(torch.zeros(1, 2), torch.tensor([0]), features=features)
    values.sum().backward()
    assert values.tolist() == [0.0]
    assert features.grad.tolist() == [[0.0] * 4]


def test_refuses_what_cannot_be_shared_out():
    class OneNumber(losses.BaseMetricLossFunction):
        def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
            return {"loss": {"losses": embeddings.sum(), "indices": None, "reduction_type": "already_reduced"}}

    with pytest.raises(ConfigError, match=r"my_pml.*one number per batch \(already_reduced\)"):
        from_metric_learning("my_pml", OneNumber())


def test_refuses_what_is_not_a_plain_loss():
    with pytest.raises(ConfigError, match=r"my_pml.*trainable parameters"):
        from_metric_learning("my_pml", losses.ProxyNCALoss(num_classes=3, embedding_size=7))
    with pytest.raises(ConfigError, match=r"my_pml.*BaseMetricLossFunction"):
        from_metric_learning("my_pml", torch.nn.CrossEntropyLoss())
    assert "my_pml" not in LOSSES

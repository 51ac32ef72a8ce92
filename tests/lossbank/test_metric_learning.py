"""Losses of pytorch-metric-learning in the library."""

from __future__ import annotations

import sys

import pytest
import torch
from pytorch_metric_learning import losses, miners

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

"""Sharing: who owns which parameters, and that the three forward passes agree."""

from __future__ import annotations

import pytest
import torch

from lossrag import ConfigError
from lossrag.models import ENCODERS, MLP, MultiTaskModel, TextCNN, stack_padded


def text_model(sharing="hard"):
    torch.manual_seed(0)
    vectors = torch.randn(9, 4)
    vectors[0] = 0
    return MultiTaskModel(lambda: TextCNN(vectors, filters=3, dropout=0.0), [2, 5], sharing)


@pytest.mark.parametrize("sharing", ["hard", "none", "shared_private"])
def test_joint_and_separate_passes_agree(sharing):
    model = text_model(sharing)
    batches = [torch.randint(1, 9, (3, 8)), torch.randint(1, 9, (2, 11))]
    joint = model.forward_joint(batches)
    assert [tuple(out.logits.shape) for out in joint] == [(3, 2), (2, 5)]
    for t, batch in enumerate(batches):
        assert torch.allclose(joint[t].logits, model(batch, t), atol=1e-6)


@pytest.mark.parametrize("sharing", ["hard", "none", "shared_private"])
def test_shared_input_pass(sharing):
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: MLP((4,), [6]), [1, 3], sharing)
    inputs = torch.randn(5, 4)
    for t, out in enumerate(model.forward_shared(inputs)):
        assert torch.allclose(out.logits, model(inputs, t))


def test_no_sharing_means_disjoint_parameters():
    model = text_model("none")
    model(torch.ones(1, 8, dtype=torch.int64), 0).sum().backward()
    assert all(p.grad is None for p in model.encoders[1].parameters())
    assert all(p.grad is None for p in model.heads[1].parameters())
    assert not torch.equal(model.encoders[0].convolutions[0].weight, model.encoders[1].convolutions[0].weight)


def test_shared_private_reads_the_shared_encoder_and_one_of_its_own():
    model = text_model("shared_private")
    assert len(model.encoders) == 3
    assert [head.in_features for head in model.heads] == [2 * 9] * 2
    tokens = torch.randint(1, 9, (4, 8))
    logits, features = model.outputs(tokens, 1)
    shared, private = model.parts(features)
    assert torch.equal(shared, model.encoders[0](tokens))
    assert torch.equal(private, model.encoders[2](tokens))
    logits.sum().backward()
    touched = [any(p.grad is not None for p in encoder.parameters()) for encoder in model.encoders]
    assert touched == [True, False, True]
    assert model.segment_encoder() is None
    assert model.discriminator is None


def test_a_discriminator_needs_shared_and_private_features():
    def encoder():
        return MLP((4,), [6])

    plain = MultiTaskModel(encoder, [1, 3], "shared_private")
    assert MultiTaskModel(encoder, [1, 3], "shared_private", discriminated=True).discriminator.layer.in_features == 6
    assert all(not name.startswith("discriminator") for name in plain.state_dict())
    for sharing in ("hard", "none"):
        with pytest.raises(ConfigError, match=r"needs sharing='shared_private', got"):
            MultiTaskModel(encoder, [1, 3], sharing, discriminated=True)


def test_unknown_sharing():
    with pytest.raises(ConfigError, match=r"sharing='soft' is unknown: choose from: hard, none, shared_private"):
        MultiTaskModel(lambda: MLP((4,)), [1], "soft")


def test_stack_padded():
    assert stack_padded([torch.tensor([[1]]), torch.tensor([[2]])]).tolist() == [[1], [2]]
    assert stack_padded([torch.tensor([[1]]), torch.tensor([[2, 3, 4]])]).tolist() == [[1, 0, 0], [2, 3, 4]]


def test_mlp():
    model = MLP((2, 3), [5, 4], dropout=0.1)
    assert model(torch.ones(7, 2, 3)).shape == (7, 4)
    assert model.features == 4
    with pytest.raises(ConfigError, match="at least one hidden layer"):
        MLP((2,), [])
    with pytest.raises(ConfigError, match="choose textcnn"):
        ENCODERS["mlp"]().build(torch.ones(2, 2), ())
    assert ENCODERS["mlp"](hidden=[3]).build(None, (2,)).features == 3


@pytest.mark.parametrize("sharing", ["hard", "none", "shared_private"])
def test_precision_reaches_the_encoders_only(sharing):
    torch.manual_seed(0)
    vectors = torch.randn(9, 4)
    models = []
    for precision in (None, torch.bfloat16):
        torch.manual_seed(1)
        models.append(MultiTaskModel(lambda: TextCNN(vectors, dropout=0.0), [2, 5], sharing, precision))
    batches = [torch.randint(1, 9, (3, 8)), torch.randint(1, 9, (2, 8))]
    exact, near = ([out.logits for out in model.forward_joint(batches)] for model in models)
    for a, b, alone in zip(exact, near, [models[1](batch, t) for t, batch in enumerate(batches)], strict=True):
        assert b.dtype == torch.float32
        assert 0 < float((a - b).norm().detach() / a.norm().detach()) < 0.02
        assert torch.allclose(b, alone)

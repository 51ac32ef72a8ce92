"""Tangents of models whose layers have no forward derivative: those of a central difference, or the layer's name."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from lossrag import ConfigError
from lossrag.lossbank import Batch, OneStep, OneStepOptions, TaskSpec, push_forward

STEP = 1e-6


class Square(torch.autograd.Function):
    """Without a jvp, as most functions of one's own are."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Once(Square):
    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class InNumpy(Square):
    """Passes gradients back without a graph, and says nothing."""

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(2 * x.detach().numpy() * gradient.detach().numpy())


class Of(nn.Module):
    """A layer around a function, and a sum over all dimensions but the first."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.linear(x)).flatten(1)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(4, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0].flatten(1)


def attention(x):
    return nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])


LAYERS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 3)),
    "lstm": lambda: Recurrent(nn.LSTM),  # fused in float32 alone
    "gru": lambda: Recurrent(nn.GRU),
    "attention": lambda: Of(attention),
    "transformer": lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 5, 0.0, batch_first=True), nn.Flatten()),
    "a function of one's own": lambda: Of(Square.apply),
    "both": lambda: nn.Sequential(nn.LSTM(4, 4, batch_first=True), First(), Of(Square.apply)),
}


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


def at(kind, dtype=torch.float64):
    """A model, its parameters as they are and a direction, and what it computes; a second value does not move."""
    torch.manual_seed(0)
    model = LAYERS[kind]().to(dtype)
    x = torch.randn(2, 5, 4, dtype=dtype)
    point = {name: p.detach().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=dtype) for name, p in point.items()}
    return model, point, direction, lambda: [model(x), x.sum()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_tangents_are_central_differences(kind, training):
    model, point, direction, function = at(kind)
    model.train(training)
    (value, tangent), (_, still) = push_forward(model, point, direction, function)
    sides = []
    for h in (STEP, -STEP):
        moved = {name: point[name] + h * direction[name] for name in point}
        with torch.no_grad():
            sides.append(torch.func.functional_call(model, moved, function.__closure__[1].cell_contents))
    torch.testing.assert_close(tangent, (sides[0] - sides[1]) / (2 * STEP), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(value, function()[0])
    assert not still.any()
    assert not value.requires_grad
    assert not tangent.requires_grad
    assert all(torch.equal(point[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["lstm", "attention", "transformer"])
def test_in_float32(kind):
    model, point, direction, function = at(kind, torch.float32)
    (_, found), _ = push_forward(model, point, direction, function)
    wide = copy.deepcopy(model).double()
    x = function.__closure__[1].cell_contents.double()
    points = [{name: tensor.double() for name, tensor in part.items()} for part in (point, direction)]
    ((_, tangent),) = push_forward(wide, *points, lambda: [wide(x)])
    torch.testing.assert_close(found.double(), tangent, rtol=1e-4, atol=1e-5)


def test_fused_kernels_are_back_in_place_afterwards():
    fused = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    push_forward(*at("both"))
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == fused
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (Once.apply, "the backward of OnceBackward has no derivative"),
        (InNumpy.apply, "the backward of InNumpyBackward has no derivative"),
        (
            lambda x: torch.cdist(x[:, None], x[None])[:, :, 0],
            "the derivative for '_cdist_backward' is not implemented",
        ),
    ],
)
def test_a_layer_that_cannot_be_differentiated_is_named_with_a_way_out(function, why, beside):
    """Also where a part of what the layer does can be: autograd would leave out the other part without a word."""
    inner = (lambda x: function(x) + x.square().sum()) if beside else function
    layers = nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.Sequential(nn.Tanh(), Of(inner)))
    point = {name: p.detach().clone() for name, p in layers.named_parameters()}
    message = rf"the layer '2\.1' \(Of\) can be differentiated neither forwards nor .*\({why}.*LookAhead"
    with pytest.raises(ConfigError, match=message):
        push_forward(layers, point, point, lambda: [layers(torch.randn(2, 5, 4))])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layers.modules())


def test_an_error_of_the_model_stays_what_it_is():
    model, point, direction, _ = at("a function of one's own")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        push_forward(model, point, direction, lambda: [model(torch.zeros(2, 3, dtype=torch.float64))])


class Trunk(nn.Module):
    """A task's features through an LSTM and a function without a jvp, then its head."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        features = Square.apply(self.layer(x)[0][:, -1])
        return self.head(features), features


def moment_of(evidence, model, x, targets):
    evidence.begin(1)
    batch = Batch(lambda: [model(x)], [targets])
    return evidence.moment([TaskSpec("only", "classification", "cross_entropy")], batch, batch, None)


def test_evidence_one_step_ahead_remembers_the_way():
    """The first look tries three; copies and pickles of it know what it knows."""
    torch.manual_seed(0)
    model, x = Trunk(), torch.randn(9, 5, 4)
    evidence = OneStep(model, OneStepOptions())
    calls = []
    for _ in range(2):
        model.calls = 0
        moment_of(evidence, model, x, torch.arange(9) % 3)
        calls.append(model.calls)
    assert calls == [4, 2]  # the query batch, and the support batch in so many ways
    assert [way.__name__ for way in copy.deepcopy(evidence)._push_forward._ways] == ["_double_backward"]
    assert pickle.loads(pickle.dumps(evidence._push_forward))._ways == evidence._push_forward._ways

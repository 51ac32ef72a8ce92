"""The contribution of every registered loss one step ahead, against one backward pass per task and loss."""

from __future__ import annotations

import pytest
import torch

from lossrag.lossbank import LOSSES, LossInputs, Tangent, contributions, cosines, gradient_sizes, push_forward
from lossrag.models import MLP, MultiTaskModel, TextCNN

CLASSES, ROWS = 4, 12


def own_input(dtype):
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: TextCNN(vectors, filters=5, dropout=0.0, trainable=True), [CLASSES] * 2).to(dtype)
    words = [torch.randint(50, (ROWS, 9), generator=torch.Generator().manual_seed(t)) for t in range(4)]
    return model, lambda split: model.forward_joint(words[2 * split : 2 * split + 2])


def shared_input(dtype):
    torch.manual_seed(0)
    model = MultiTaskModel(lambda: MLP((7,), [9, 6]), [CLASSES] * 2).to(dtype)
    inputs = torch.randn(2, ROWS, 7, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return model, lambda split: model.forward_shared(inputs[split])


@pytest.fixture(params=["own input", "shared input"])
def suite(request):
    return own_input if request.param == "own input" else shared_input


def targets_of(loss, dtype):
    generator = torch.Generator().manual_seed(3)
    if loss.target_kind == "classification":
        return torch.randint(CLASSES, (ROWS,), generator=generator)
    return torch.randn(ROWS, CLASSES, generator=generator, dtype=dtype)


def moved_outputs(suite, dtype):
    """Direction v, and the outputs with their tangents of every task at the old parameters, unlike the present ones."""
    model, outputs = suite(dtype)
    parameters = dict(model.named_parameters())
    old = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for p in parameters.values():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=dtype))
    outer = sum(out.logits.square().mean() for out in outputs(1))
    v = dict(zip(parameters, torch.autograd.grad(outer, list(parameters.values())), strict=True))
    moved = push_forward(model, old, v, lambda: [tensor for out in outputs(0) for tensor in out])
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(old[name])
    return parameters, outputs, v, moved


def tangent_of(logits, features, targets, counts=None):
    """From pairs of values and tangents."""
    return Tangent(LossInputs(logits[0], targets, features[0], counts), logits[1], features[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_contributions_equal_brute_force(suite, dtype, tolerance):
    parameters, outputs, v, moved = moved_outputs(suite, dtype)
    counts = torch.tensor([40.0, 20.0, 10.0, 3.0], dtype=dtype)
    names = [name for name in LOSSES if not name.startswith("my_")]
    for t in range(2):
        for name in names:
            loss = LOSSES[name]
            targets = targets_of(loss, dtype)
            tangent = tangent_of(moved[2 * t], moved[2 * t + 1], targets, counts)
            out = outputs(0)[t]
            value = loss(out.logits, targets, features=out.features, class_counts=counts).mean()
            gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            pairs = [(g.double(), d.double()) for g, d in zip(gradients, v.values(), strict=True) if g is not None]
            expected = sum((g * d).sum() for g, d in pairs)
            # relative to what the product is made of: it may cancel
            scale = sum(g.square().sum() for g, _ in pairs).sqrt() * sum(d.square().sum() for _, d in pairs).sqrt()
            error = float((contributions(tangent, [loss])[0] - expected).abs() / scale.clamp(min=1e-12))
            assert error <= tolerance, f"{name}, task {t}: {error:.1e}"


def test_sizes_and_cosines():
    _, _, _, moved = moved_outputs(shared_input, torch.float64)
    targets = targets_of(LOSSES["cross_entropy"], torch.float64)
    tangent = tangent_of(moved[0], moved[1], targets)
    inputs = tangent.inputs
    z = inputs.logits.clone().requires_grad_()
    (g,) = torch.autograd.grad(LOSSES["cross_entropy"](z, targets).mean(), z)
    f = inputs.features.clone().requires_grad_()
    (gf,) = torch.autograd.grad(LOSSES["centre"](inputs.logits, targets, features=f).mean(), f)
    losses = [LOSSES["cross_entropy"], LOSSES["centre"]]
    sizes, _ = gradient_sizes(inputs, losses, torch.tensor(2.0, dtype=torch.float64))

    def pull(gradient):
        rows = [float(row.norm()) for row in gradient]
        return len(rows) ** 0.5 * sum(r * r for r in rows) / sum(rows)

    assert sizes.tolist() == pytest.approx([pull(g), 2 * pull(gf)])
    cosine = cosines(tangent, contributions(tangent, losses), sizes)
    u = tangent.logits
    assert float(cosine[0]) == pytest.approx(float((g * u).sum() / pull(g) / u.norm()), rel=1e-6)


def test_the_size_of_a_gradient_is_that_at_the_samples_it_acts_on():
    """Alike at all samples: its length. At one of four: as if it were alike at all of them, twice its length."""
    one, targets = torch.tensor(1.0), torch.tensor([0, 1, 2, 0])
    mae, truncated = LOSSES["mae"], LOSSES["truncated_generalised_ce"]
    z = torch.zeros(4, 3).requires_grad_()
    (g,) = torch.autograd.grad(mae(z, targets).mean(), z)
    size, coverage = gradient_sizes(LossInputs(z.detach(), targets), [mae], one)
    assert (float(size), float(coverage)) == pytest.approx((float(g.norm()), 1.0))
    logits = torch.zeros(4, 3)
    logits[0, 0] = 2.0  # the only sample above the truncation
    z = logits.clone().requires_grad_()
    (g,) = torch.autograd.grad(truncated(z, targets).mean(), z)
    assert [bool(row.any()) for row in g] == [True, False, False, False]
    size, coverage = gradient_sizes(LossInputs(logits, targets), [truncated], one)
    assert (float(size), float(coverage)) == pytest.approx((2 * float(g.norm()), 0.25))


def test_a_direction_that_moves_nothing_gives_no_contribution():
    still = torch.zeros(3, 2), torch.zeros(3, 4)
    tangent = Tangent(LossInputs(still[0], torch.tensor([0, 1, 0]), still[1]), *still)
    found = contributions(tangent, [LOSSES["cross_entropy"]])
    assert found.tolist() == [0.0]
    assert cosines(tangent, found, torch.ones(1, dtype=torch.float64)).tolist() == [0.0]

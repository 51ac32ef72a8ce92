"""Losses of the library on a GPU: values and gradients of the CPU, with class counts given there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lossrag.lossbank import LOSSES, LossInputs, Mixture, gradient_sizes, joined_mixture
from tests.lossbank.oracles import batch_for, built_in

NAMES = built_in()
CPU = torch.device("cpu")


def found(name, device, dtype, missing=False):
    """Values and gradients; the class counts stay on the CPU."""
    batch = batch_for(name).to(dtype)
    targets = batch.targets.clone()
    if missing:
        targets[::3] = float("nan") if targets.is_floating_point() else -100
    z = batch.logits.to(device).requires_grad_()
    f = batch.features.to(device).requires_grad_()
    values = LOSSES[name](z, targets.to(device), features=f, class_counts=batch.class_counts)
    assert values.device.type == device.type
    assert values.dtype == dtype
    gradients = torch.autograd.grad(values.sum(), (z, f), materialize_grads=True)
    return [part.detach().cpu().double() for part in (values, *gradients)]


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing labels"])
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [
        (torch.float64, 1e-9, 1e-10),
        (torch.float32, 1e-4, 1e-5),
        (torch.float16, 1e-2, 1e-3),
        (torch.bfloat16, 5e-2, 1e-2),
    ],
    ids=["float64", "float32", "float16", "bfloat16"],
)
@pytest.mark.parametrize("name", NAMES)
def test_every_loss(name, dtype, rtol, atol, missing, device):
    for one, other in zip(found(name, device, dtype, missing), found(name, CPU, dtype, missing), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_within_autocast(name, dtype, device):
    batch = batch_for(name).to(torch.float32)
    features = batch.features.to(device).requires_grad_()
    with torch.autocast(device.type, dtype=dtype):
        logits = (batch.logits.to(device) @ torch.eye(4, device=device)).detach().requires_grad_()
        assert logits.dtype == dtype
        values = LOSSES[name](logits, batch.targets.to(device), features=features, class_counts=batch.class_counts)
    assert values.isfinite().all()
    for part in torch.autograd.grad(values.sum(), (logits, features), materialize_grads=True):
        assert part.isfinite().all()


def test_mixtures_follow_their_logits(device):
    """Coefficients and class counts are on the CPU and in float64."""
    batch = batch_for("mae").to(torch.float32)
    losses = tuple(LOSSES[name] for name in ("mae", "balanced_softmax" if "balanced_softmax" in LOSSES else "brier"))
    mixture = Mixture(losses, torch.tensor([0.3, 0.7], dtype=torch.float64))
    mixture = replace(mixture, class_counts=batch.class_counts.double())
    here = [part.to(device) for part in (batch.logits, batch.targets, batch.features)]
    expected = mixture(batch.logits, batch.targets, batch.features)
    torch.testing.assert_close(mixture(*here).cpu(), expected, rtol=1e-4, atol=1e-5)
    row_by_row = Mixture((LOSSES["mae"], LOSSES["brier"]), torch.tensor([0.5, 0.5]))
    other = Mixture((LOSSES["cross_entropy"],))
    task = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    joined = joined_mixture([row_by_row, other], here[0], here[1], task.to(device))
    plain = joined_mixture([row_by_row, other], batch.logits, batch.targets, task)
    torch.testing.assert_close(joined.cpu(), plain, rtol=1e-4, atol=1e-5)


def test_sizes_of_all_losses_at_once(device):
    """What a composer measures: gradients of every loss in one call."""
    losses = [LOSSES[name] for name in NAMES if LOSSES[name].target_kind == "classification"]
    batch = batch_for("mae").to(torch.float32)
    sizes = []
    for where in (device, CPU):
        inputs = LossInputs(*(part.to(where) for part in vars(batch).values()))
        sizes.append([part.cpu() for part in gradient_sizes(inputs, losses, torch.ones((), device=where))])
    for one, other in zip(*sizes, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-3, atol=1e-4)

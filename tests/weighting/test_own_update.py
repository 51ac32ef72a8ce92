"""The support side alone: gradients that are left for scalers, accumulation, clipping and optimisers of one's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lossrag.errors import ConfigError
from lossrag.weighting import MGDA, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import Net, batch, flat, losses_of, made, take

NAMES = ["uniform", "uncertainty", "gradnorm", "mgda", "torchjd/pcgrad", "metaweighting"]


def rows_of(x, y, rows):
    return x[rows], y[rows]


@pytest.mark.parametrize("name", NAMES)
def test_backward_then_step_is_a_step(name):
    one, called = made(name)
    two, split = made(name)
    for i in range(3):
        (x, y), (xq, yq) = batch(2 * i, 3), batch(2 * i + 1, 3)
        torch.manual_seed(i)
        expected = take(called, losses_of(one, x, y), losses_of(one, xq, yq))
        torch.manual_seed(i)
        split.optimizer.zero_grad()
        record = split.backward(losses_of(two, x, y))
        split.optimizer.step()
        if split.needs.hypergradient is not None:
            record = split.learn(losses_of(two, xq, yq))
        torch.testing.assert_close(record.next_weights, expected.next_weights, rtol=1e-12, atol=0)
    torch.testing.assert_close(flat(one), flat(two), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_four_micro_batches_are_a_batch(name):
    """4 x 16 rows give what 64 give at once."""
    one, called = made(name)
    two, split = made(name)
    for i in range(3):
        (x, y), (xq, yq) = batch(2 * i, 3, 64), batch(2 * i + 1, 3)
        torch.manual_seed(i)
        expected = take(called, losses_of(one, x, y), losses_of(one, xq, yq))
        torch.manual_seed(i)
        split.optimizer.zero_grad()
        for part in range(3):
            split.accumulate(losses_of(two, *rows_of(x, y, slice(16 * part, 16 * part + 16))))
        record = split.backward(losses_of(two, *rows_of(x, y, slice(48, 64))))
        split.optimizer.step()
        if split.needs.hypergradient is not None:
            record = split.learn(losses_of(two, xq, yq))
        torch.testing.assert_close(record.support_losses, expected.support_losses, rtol=1e-9, atol=0)
        torch.testing.assert_close(record.next_weights, expected.next_weights, rtol=1e-6, atol=0)
    torch.testing.assert_close(flat(one), flat(two), rtol=1e-6, atol=1e-9)


def test_a_task_that_is_in_some_of_the_micro_batches():
    """Its loss and gradient are the means over those that it was in: 2 of 3 here."""
    theta = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=1.0), Uniform(), ["a", "b"])
    for number in range(2):
        step.accumulate([lambda n=number: theta[0] * n, (lambda: theta[1] * 2) if number else None])
    record = step.backward([lambda: theta[0] * 2, lambda: theta[1] * 4])
    assert theta.grad.tolist() == pytest.approx([(0 + 1 + 2) / 3 / 2, (2 + 4) / 2 / 2])
    assert record.present == (True, True)


@pytest.mark.parametrize("name", ["uniform", "mgda", "metaweighting"])
def test_an_error_in_a_micro_batch_drops_all_of_the_step(name):
    """The gradients of the tasks before it are in none of the next ones."""
    (net, step), (other, fresh) = made(name), made(name)
    nets, steps = (net, other), (step, fresh)
    losses = [losses_of(net, *batch(0, 3)) for net in nets]

    def broken():
        raise ArithmeticError("a closure of the user's")

    steps[0].accumulate(losses[0])
    with pytest.raises(ArithmeticError):
        steps[0].accumulate([lambda: losses[0]()[0], broken, broken])
    for net, step in zip(nets, steps, strict=True):
        first = losses_of(net, *batch(1, 3))
        step.accumulate([lambda first=first, t=t: first()[t] for t in range(3)])
        step.backward(losses_of(net, *batch(2, 3)))
        step.optimizer.step()
    torch.testing.assert_close(flat(nets[0]), flat(nets[1]), rtol=0, atol=0)


@pytest.mark.parametrize("method", [Uniform(), MGDA(), MetaWeighting(alpha=0.1, scale="unit")])
@pytest.mark.parametrize("scaled", ["by the scaler", "by the step"])
def test_gradient_scaler(method, scaled):
    """As people write it, on a CPU: weights and parameters are those of a run without a scaler."""
    nets = [Net(2), Net(2)]
    steps = [MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), method, 2) for net in nets]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2)
    for i in range(4):
        x, y = batch(i, 2)
        plain = [losses_of(net, x, y) for net in nets]
        expected = take(steps[0], plain[0], plain[0])
        losses, options = plain[1], {"scale": scaler.get_scale()}
        if scaled == "by the scaler":
            losses, options = (lambda own=plain[1]: [scaler.scale(loss) for loss in own()]), {}
        else:
            scaler.scale(torch.zeros(()))  # a scaler that never scaled knows no device
        steps[1].optimizer.zero_grad()
        record = steps[1].backward(losses, **options)
        torch.testing.assert_close(record.support_losses, expected.support_losses, rtol=1e-9, atol=0)
        scaler.step(steps[1].optimizer)
        scaler.update()
        if method.needs.hypergradient is not None:
            record = steps[1].learn(losses)
        torch.testing.assert_close(record.next_weights, expected.next_weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(flat(nets[0]), flat(nets[1]), rtol=1e-9, atol=1e-12)


def test_scaled_losses_given_to_a_whole_step():
    """What a scaler has scaled is seen unscaled: nothing is destroyed."""
    nets = [Net(2), Net(2)]
    steps = [MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), MGDA(), 2) for net in nets]
    scaler = torch.amp.GradScaler("cpu")
    x, y = batch(0, 2)
    steps[0](losses_of(nets[0], x, y))
    record = steps[1](lambda: [scaler.scale(loss) for loss in losses_of(nets[1], x, y)()])
    torch.testing.assert_close(flat(nets[0]), flat(nets[1]), rtol=1e-9, atol=1e-12)
    assert float(record.support_losses.max()) < 10


def test_an_overflow_is_the_scalers():
    """Gradients that overflow stay as they are, for the scaler to skip the step; weights stay too."""
    theta = torch.full((2,), 2.0, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), MetaWeighting(alpha=0.1, scale="unit"), 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)

    def losses():
        return [scaler.scale(theta[0] * 1e3), scaler.scale(theta[1] * 1e3)]

    step.backward(losses)
    assert not bool(theta.grad.isfinite().all())
    scaler.step(step.optimizer)
    scaler.update()
    record = step.learn(losses)
    assert theta.tolist() == [2.0, 2.0]
    assert record.next_weights.tolist() == [1.0, 1.0]
    assert scaler.get_scale() < 2.0**120


def test_clipping_and_two_optimisers():
    """AdamW for the trunk and SGD for the heads, gradients clipped by norm, by hand."""
    net, other = Net(2), Net(2)
    x, y = batch(0, 2)
    step = MultiTaskStep(
        net, [torch.optim.AdamW(net.trunk.parameters()), torch.optim.SGD(net.heads.parameters(), 0.1)], Uniform(), 2
    )
    step.backward(losses_of(net, x, y))
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    step.optimizers.step()
    pair = [torch.optim.AdamW(other.trunk.parameters()), torch.optim.SGD(other.heads.parameters(), 0.1)]
    (sum(F.cross_entropy(z, y[:, t]) for t, z in enumerate(other(x))) / 2).backward()
    assert float(torch.nn.utils.clip_grad_norm_(other.parameters(), 0.01)) == pytest.approx(float(norm))
    for optimizer in pair:
        optimizer.step()
    torch.testing.assert_close(flat(net), flat(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["uniform", "mgda", "metaweighting"])
def test_gradients_that_were_there_are_used(name):
    """A penalty of one's own before the step is added to the weighted gradient; what a step left is not."""
    net, step = made(name)
    other, plain = made(name)
    for i in range(2):
        x, y = batch(i, 3)
        start = flat(net)
        (0.5 * sum(p.square().sum() for p in net.parameters())).backward()
        take(step, losses_of(net, x, y), losses_of(net, x, y))
        if i == 0:
            take(plain, losses_of(other, x, y), losses_of(other, x, y))
            torch.testing.assert_close(flat(net), flat(other) - 0.1 * start, rtol=1e-9, atol=1e-12)
    lying, fresh = made(name)
    sum(F.cross_entropy(z, y[:, t]) for t, z in enumerate(lying(x))).backward()
    again = MultiTaskStep(lying, torch.optim.SGD(lying.parameters(), lr=0.1), fresh.weighting, ["a", "b", "c"])
    clean, alone = made(name)
    take(again, losses_of(lying, x, y), losses_of(lying, x, y))
    take(alone, losses_of(clean, x, y), losses_of(clean, x, y))
    assert torch.equal(flat(lying), flat(clean)), "what lay about when the step was made is nobody's"


def test_learn_needs_a_backward():
    _, step = made("metaweighting")
    with pytest.raises(ConfigError, match="learn\\(query\\) ends a step that backward\\(support\\) began"):
        step.learn(lambda: [])
    net, step = made("uniform")
    step.backward(losses_of(net, *batch(0, 3)))
    with pytest.raises(ConfigError, match="Uniform takes no query losses"):
        step.learn(losses_of(net, *batch(0, 3)))


@pytest.mark.parametrize("every", [2, 3])
def test_the_outer_problem_every_so_often(every):
    """Between outer steps the query closures are not called, and the weights stay."""
    net, step = made("metaweighting", every=every)
    calls = []
    for i in range(6):
        x, y = batch(i, 3)
        held_out = losses_of(net, *batch(10 + i, 3))

        def query(i=i, held_out=held_out):
            calls.append(i)
            return held_out()

        before = step.task_weights.clone()
        record = step(losses_of(net, x, y), query)
        due = (i + 1) % every == 0
        assert (record.hypergradient is not None) == due
        assert torch.equal(step.task_weights, before) != due
    assert calls == [i for i in range(6) if (i + 1) % every == 0]

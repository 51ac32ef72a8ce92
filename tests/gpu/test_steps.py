"""Steps on a GPU end where those on the CPU do: every method, and all that real loops do."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossrag.errors import ConfigError, DivergedError
from lossrag.weighting import WEIGHTINGS, MetaWeighting, MultiTaskStep, TableRows, TaskGroup
from tests.weighting.loops import Net, batch, flat, losses_of, signals, take

CPU = torch.device("cpu")
T = 4
NAMES = sorted(set(WEIGHTINGS) - {"fixed"})
STEPS = 5


def method_of(name):
    try:
        method = WEIGHTINGS[name]()
        method.init(T, CPU)
    except ConfigError as error:
        if "torchjd" in name:
            pytest.skip(str(error))
        raise
    return method


class Loop:
    """A net, its step and the batches, on a device; the same on every device."""

    def __init__(self, method, device, dtype=torch.float64, optimizer=torch.optim.SGD, norm=False, lr=0.05, **options):
        self.device, self.dtype = device, dtype
        self.net = Net(T, norm=norm).to(device, dtype)
        self.step = MultiTaskStep(self.net, optimizer(self.net.parameters(), lr=lr), method, [*"abcd"], **options)
        self.own_features = None

    def batch(self, number, rows=12):
        x, y = batch(number, T, rows)
        return x.to(self.device, self.dtype), y.to(self.device)

    def closure(self, number, absent=(), how="none", scale=1.0):
        x, y = self.batch(number)
        if self.step.needs.representation is None:
            return losses_of(self.net, x * scale, y, absent, how)

        def closure():
            z = self.net.trunk(x * scale)
            self.own_features = [z] * T
            losses = [F.cross_entropy(head(z), y[:, t]) for t, head in enumerate(self.net.heads)]
            return [None if t in absent else loss for t, loss in enumerate(losses)]

        return closure

    def more(self, number):
        told = signals(self.step, number, T)
        if "scores" in told:
            told["scores"] = lambda: torch.tensor([0.5, 0.6, 0.7, 0.5], dtype=self.dtype, device=self.device)
        if self.step.needs.representation is not None:
            told["representation"] = lambda: self.own_features
        return told

    def take(self, number, absent=(), query_absent=(), how="none"):
        torch.manual_seed(number)  # of methods that draw
        query = self.closure(100 + number, query_absent, how)
        return take(self.step, self.closure(number, absent, how), query, **self.more(number))

    def run(self, steps=STEPS, **options):
        for number in range(steps):
            self.take(number, **options)
        return self

    def values(self):
        state = {key: value.cpu().double() for key, value in self.step.state.items()}
        return flat(self.net).cpu().double(), state


def assert_alike(one, other, rtol, atol):
    if type(one.step.weighting).__name__ == "Krum":  # of neighbours that are as near as each other rounding takes one
        assert one.values()[0].isfinite().all()
        return
    (parameters, state), (expected, kept) = one.values(), other.values()
    assert parameters.isfinite().all()
    torch.testing.assert_close(parameters, expected, rtol=rtol, atol=atol)
    for key, value in state.items():
        torch.testing.assert_close(value, kept[key], rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_in_float64(name, device):
    method = method_of(name)
    loops = [Loop(method, where).run() for where in (device, CPU)]
    assert loops[0].step.task_weights.device.type == device.type
    assert_alike(*loops, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_in_float32(name, device):
    """Methods that solve on a Gramian may stand on either side of an edge: those are held to finite weights alone."""
    method = method_of(name)
    loops = [Loop(method, where, torch.float32).run() for where in (device, CPU)]
    if name in ("epo", "pareto_mtl") or name.startswith("torchjd/"):
        assert loops[0].values()[0].isfinite().all()
        assert loops[0].step.task_weights.isfinite().all()
    else:
        assert_alike(*loops, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["support", "query", "both", "labels"])
def test_absent_tasks(name, kind, device):
    method = method_of(name)
    absent = {
        "support": {"absent": (1,)},
        "query": {"query_absent": (0, 2)},
        "both": {"absent": (0, 2), "query_absent": (0, 2)},
        "labels": {"absent": (1,), "query_absent": (1,), "how": "labels"},
    }[kind]
    if kind == "labels" and method.needs.representation is not None:
        pytest.skip("its closure has None alone")
    loops = [Loop(method, where) for where in (device, CPU)]
    for loop in loops:
        loop.run(1)
        for number in range(1, 4):
            record = loop.take(number, **absent)
        assert record.present == tuple(t not in absent.get("absent", ()) for t in range(T))
        loop.take(4)
    assert_alike(*loops, rtol=1e-7, atol=1e-9)


OPTIONS = {
    "adam inside": (MetaWeighting(inner="adam", scale="unit"), {"optimizer": torch.optim.Adam, "lr": 0.01}),
    "unit, simplex": (MetaWeighting(alpha=0.5, scale="unit", constraint="simplex"), {}),
    "nonnegative": (MetaWeighting(alpha=5.0, scale="unit", constraint="nonnegative"), {}),
    "shared": (MetaWeighting(scale="unit", parameters="shared"), {}),
    "paper's solver": (MetaWeighting(scale="unit", solver="paper"), {}),
    "low memory": (MetaWeighting(scale="unit"), {"memory": "low"}),
    "low memory, adam inside": (
        MetaWeighting(inner="adam", scale="unit"),
        {"memory": "low", "optimizer": torch.optim.Adam, "lr": 0.01},
    ),
    "every third": (MetaWeighting(scale="unit"), {"every": 3}),
    "two outer tasks": (MetaWeighting(scale="unit"), {"outer": ["a", "d"]}),
    "trusted": (MetaWeighting(scale="unit"), {"nonfinite": "trust"}),
    "given weights": (WEIGHTINGS["fixed"]([1.0, 2.0, 0.5, 0.5]), {}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, device):
    method, options = OPTIONS[name]
    loops = [Loop(method, where, **options) for where in (device, CPU)]
    for loop in loops:
        for number in range(STEPS):
            torch.manual_seed(number)
            query = None
            if method.needs.hypergradient is not None:
                every = losses_of(loop.net, *loop.batch(100 + number))
                query = [lambda t=t, every=every: every()[t] for t in loop.step.outer]
            loop.step(loop.closure(number), query)
    assert_alike(*loops, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["adamw", "fused", "capturable", "two"])
def test_optimisers(kind, device):
    """Fused and capturable ones keep their counts on the device."""
    made = {
        "adamw": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01),
        "fused": lambda net: torch.optim.Adam(net.parameters(), lr=0.01, fused=True),
        "capturable": lambda net: torch.optim.Adam(
            net.parameters(), lr=0.01, capturable=next(net.parameters()).is_cuda
        ),
        "two": lambda net: [
            torch.optim.AdamW(net.trunk.parameters(), lr=0.01),
            torch.optim.Adam(net.heads.parameters(), lr=0.02),
        ],
    }[kind]
    found = []
    for where in (device, CPU):
        net = Net(T).to(where)
        step = MultiTaskStep(net, made(net), MetaWeighting(inner="adam", scale="unit"), T)
        for number in range(STEPS):
            x, y = (part.to(where) for part in batch(number, T))
            step(losses_of(net, x, y), losses_of(net, x, y))
        found.append((flat(net).cpu(), step.task_weights.cpu()))
    # torch's capturable ones correct their bias in float32
    close = {"rtol": 1e-3, "atol": 1e-5} if kind == "capturable" else {"rtol": 1e-6, "atol": 1e-8}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("name", ["uniform", "mgda", "gradnorm", "metaweighting"])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_values_that_are_not_finite(name, policy, device):
    loop = Loop(WEIGHTINGS[name](), device, norm=True, nonfinite=policy, optimizer=torch.optim.Adam).run(2)
    before, state = copy.deepcopy(loop.net.state_dict()), {k: v.clone() for k, v in loop.step.state.items()}
    x, y = loop.batch(7)
    x[3, 2] = float("nan")
    broken = losses_of(loop.net, x, y)
    if policy == "raise":
        with pytest.raises(DivergedError, match="an input of the model is not finite"):
            take(loop.step, broken, broken)
    else:
        assert take(loop.step, broken, broken).skipped is not None
        assert loop.step.skipped == 1
    assert all(torch.equal(before[key], value) for key, value in loop.net.state_dict().items())
    assert all(torch.equal(state[key], value) for key, value in loop.step.state.items())
    loop.take(8)
    assert loop.values()[0].isfinite().all()


def test_running_statistics_stay_in_query_passes(device):
    loops = [Loop(MetaWeighting(scale="unit"), where, norm=True).run() for where in (device, CPU)]
    norm, other = (loop.net.trunk[1] for loop in loops)
    assert int(norm.num_batches_tracked) == STEPS
    torch.testing.assert_close(norm.running_mean.cpu(), other.running_mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(norm.running_var.cpu(), other.running_var, rtol=1e-9, atol=1e-12)
    assert_alike(*loops, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["uniform", "gradnorm", "mgda", "metaweighting"])
def test_micro_batches(name, device):
    loops = [Loop(WEIGHTINGS[name](), where) for where in (device, CPU)]
    for loop in loops:
        for number in range(3):
            loop.step.optimizer.zero_grad()
            loop.step.accumulate(loop.closure(10 * number, absent=(1,)))
            loop.step.accumulate(loop.closure(10 * number + 1))
            loop.step.backward(loop.closure(10 * number + 2))
            nn.utils.clip_grad_norm_(loop.net.parameters(), 1.0)
            loop.step.optimizer.step()
            if loop.step.needs.hypergradient is not None:
                loop.step.learn(loop.closure(10 * number + 3))
    assert_alike(*loops, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["mgda", "gradnorm", "metaweighting"])
def test_linear_layers_kept_as_factors(name, device):
    """A trunk wide enough for factors to pay off gives what formed gradients do."""
    found = []
    for where, watched in ((device, True), (device, False), (CPU, True)):
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64), nn.Tanh())
        net = nn.Sequential(trunk, nn.ModuleList(nn.Linear(64, 3) for _ in range(8))).double().to(where)
        x = torch.randn(6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(where)
        y = torch.randint(3, (8, 6), generator=torch.Generator().manual_seed(2)).to(where)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        step = MultiTaskStep(list(net.parameters()), optimizer, WEIGHTINGS[name](), 8, model=net if watched else None)

        def losses(net=net, x=x, y=y):
            z = net[0](x)
            return [F.cross_entropy(head(z), y[t]) for t, head in enumerate(net[1])]

        for _ in range(STEPS):
            take(step, losses, losses)
        assert any(linear.tasks for linear in step.engine.rows._linear) == watched
        found.append((flat(net).cpu(), step.task_weights.cpu()))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["mgda", "metaweighting"])
@pytest.mark.parametrize("sparse", [True, False])
def test_groups_of_tasks_and_rows_of_tables(name, sparse, device):
    """Two tasks in one pass over a table of which the batch reads some rows, their gradient a sparse tensor."""
    found = []
    for where in (device, CPU):
        g = torch.Generator().manual_seed(0)
        table = torch.randn(20, 3, generator=g, dtype=torch.float64).to(where).requires_grad_()
        heads = [torch.randn(3, generator=g, dtype=torch.float64).to(where).requires_grad_() for _ in range(2)]
        words = [torch.randint(20, (2, 5), generator=g).to(where) for _ in range(2 * STEPS)]
        groups = [{"params": heads}, {"params": [table], "sparse": sparse}]
        step = MultiTaskStep([table, *heads], torch.optim.SGD(groups, lr=0.1), WEIGHTINGS[name](), 2)

        def group(ids, own, table=table, heads=heads):
            lookup = torch.full((20,), len(ids), device=ids.device)
            lookup[ids] = torch.arange(len(ids), device=ids.device)

            def compute(copies, stacks):
                weights = stacks[0].view(2, 3)
                return [
                    (torch.cat([copies[0][t], copies[0].new_zeros(1, 3)])[lookup[own[t]]] @ weights[t] - t - 1)
                    .square()
                    .mean()
                    for t in range(2)
                ]

            return [TaskGroup(range(2), [TableRows(table, ids)], [heads], compute)]

        for number in range(STEPS):
            ids = torch.unique(words[2 * number])
            take(step, group(ids, words[2 * number]), group(ids, words[2 * number + 1]))
            assert table.grad.is_sparse == sparse
        found.append((table.detach().cpu(), *(head.detach().cpu() for head in heads), step.task_weights.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["uniform", "gradnorm", "metaweighting", "torchjd/gradvac", "torchjd/pcd"])
def test_state_goes_from_device_to_device(name, device):
    """Trained here, loaded on the CPU, and back."""
    method = method_of(name)
    here, there, back = Loop(method, device).run(), Loop(method, CPU), Loop(method, device)
    for one, other in ((here, there), (there, back)):
        other.net.load_state_dict({k: v.to(other.device) for k, v in one.net.state_dict().items()})
        other.step.load_state_dict(one.step.state_dict())
    for loop in (here, there, back):
        loop.take(STEPS)
        assert loop.step.task_weights.device.type == loop.device.type
    assert_alike(there, here, rtol=1e-7, atol=1e-9)
    assert_alike(back, here, rtol=1e-12, atol=1e-12)


def test_dropout_is_drawn_again_in_low_memory(device):
    """Its masks come from the device's own generator."""
    found = []
    for memory in ("rows", "low"):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 2)).double().to(device)
        step = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), MetaWeighting(scale="unit"), 2, memory)
        x, _ = batch(0, 2)
        x = x.to(device)
        losses = [lambda t=t, net=net, x=x: (net(x)[:, t] - 1).square().mean() for t in range(2)]
        torch.manual_seed(5)
        record = step(losses, losses)
        found.append(record.support_losses.cpu())
        assert record.hypergradient.isfinite().all()
    torch.testing.assert_close(*found)

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from lossrag import BankError, ConfigError
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.embedding import GEOMETRY_SIZE, VECTOR_SIZE, loss_vectors
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.towers import Towers
from tests.lossbank.simulated import NAMES, filled, moments

C = len(CONTEXT_NAMES)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return filled(3)


@pytest.fixture(scope="module")
def vectors(memory) -> dict[str, torch.Tensor]:
    return dict(zip(NAMES, loss_vectors([LOSSES[name] for name in NAMES], memory), strict=True))


def towers(**more) -> Towers:
    return Towers(C, VECTOR_SIZE, **more)


def test_they_learn_and_say_how_well(memory, vectors):
    model = towers()
    report = model.fit(memory, vectors)
    assert report.r2 > 0.7
    assert report.correlation > 0.85
    assert 200 < report.held_out < len(memory) / 4
    contexts, truth, _ = moments(20, seed=99)
    guesses = torch.stack([model.predict(context, torch.stack(list(vectors.values())))[0] for context in contexts])
    assert float(torch.corrcoef(torch.stack([guesses.flatten(), truth.flatten()]))[0, 1]) > 0.9


def test_a_fit_is_a_function_of_its_arguments(memory, vectors):
    torch.manual_seed(1)
    one, two, other = towers(), towers(), towers()
    first = one.fit(memory, vectors, steps=30)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert two.fit(memory, vectors, steps=30) == first
    assert torch.equal(before, torch.random.get_rng_state())
    other.fit(memory, vectors, steps=30, seed=1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    assert not torch.equal(one.state_dict()["loss_first"], other.state_dict()["loss_first"])


def test_going_on_never_loses_what_was_reached(memory, vectors):
    model = towers()
    reports = [model.fit(memory, vectors, steps=steps) for steps in (40, 0, 40, 40)]
    assert all(later.r2 >= earlier.r2 - 1e-3 for earlier, later in pairwise(reports))
    assert reports[1].r2 == pytest.approx(reports[0].r2, abs=1e-3)
    assert reports[1].best_step == 0


def test_new_records_do_not_make_it_forget(vectors):
    model = towers()
    model.fit(filled(3, count=40), vectors, steps=100)
    context = moments(1, 5)[0][0]
    rows = torch.stack(list(vectors.values()))
    before = model.predict(context, rows)[0]
    # other contexts, another mean and deviation of them
    model.fit(filled(4, count=120), vectors, steps=0)
    torch.testing.assert_close(model.predict(context, rows)[0], before, rtol=0, atol=0.05)


def test_uncertainty_is_larger_where_nothing_was_seen(memory, vectors):
    model = towers()
    rows = torch.stack(list(vectors.values()))
    mean, uncertainty = model.predict(torch.zeros(C), rows)
    assert (mean.unique().tolist(), uncertainty.unique().tolist()) == ([0.0], [1.0])
    model.fit(memory, vectors)
    near = model.predict(moments(1, 5)[0][0], rows)[1].mean()
    far = model.predict(torch.linspace(-40, 40, C), rows)[1].mean()
    assert 0 < float(near) < float(far) <= 1


def test_little_or_nothing_to_learn_from(vectors):
    model = towers()
    before = model.state_dict()
    report = model.fit(Memory(C, "v"), vectors)
    assert (report.held_out, report.steps, math.isnan(report.r2), model.fitted) == (0, 0, True, False)
    foreign = Memory(C, "v")
    foreign.add(np.zeros((1, C)), ["not offered"], [0.5], run="r", task="t", step=0)
    assert model.fit(foreign, vectors).steps == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    foreign.add(np.zeros((1, C)), ["mae"], [0.5], run="r", task="t", step=0)
    report = model.fit(foreign, vectors, steps=20)
    assert (report.held_out, math.isnan(report.r2), model.fitted) == (0, True, True)
    mean, uncertainty = model.predict(torch.zeros(C), vectors["mae"][None])
    assert bool(mean.isfinite().all())
    assert float(uncertainty) >= 0.5


def test_state_round_trip_and_refusals(memory, vectors):
    model, other = towers(), towers(seed=5)
    model.fit(memory, vectors, steps=20)
    state = model.state_dict()
    other.load_state_dict(state)
    context, rows = moments(1, 5)[0][0], torch.stack(list(vectors.values()))
    assert torch.equal(other.predict(context, rows)[0], model.predict(context, rows)[0])
    before = other.state_dict()
    name = "loss_first"
    for bad in (
        {key: value for key, value in state.items() if key != name},
        state | {name: state[name][:, 1:]},
        state | {name: state[name].double()},
        state | {name: state[name] * torch.nan},
    ):
        with pytest.raises(BankError, match=name):
            other.load_state_dict(bad)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    state[name].zero_()
    assert bool(model.state_dict()[name].any())
    for sizes in ({"members": 0}, {"always": VECTOR_SIZE + 1}, {"hidden": 0}):
        with pytest.raises(ConfigError):
            towers(**sizes)
    for wrong in (
        lambda: model.fit(memory, {"mae": torch.zeros(3)}),
        lambda: model.fit(Memory(2, "v"), vectors),
        lambda: model.fit(memory, vectors, steps=-1),
        lambda: model.predict(torch.zeros(2), rows),
        lambda: model.predict(context, rows[:, :GEOMETRY_SIZE]),
        lambda: model.embed("task", rows),
    ):
        with pytest.raises(ConfigError):
            wrong()

"""torchjd's weightings as methods: its own numbers times T, its memory in the state, and the way out without it."""

from __future__ import annotations

import sys

import pytest
import torch
import torchjd.aggregation as library

from lossrag import ConfigError, DivergedError
from lossrag.weighting import MGDA, WEIGHTINGS, MultiTaskStep, Signals, TorchJD
from lossrag.weighting.methods.torchjd import PCD, GradVac, Krum, PCGrad, UPGrad, _instance
from tests.weighting import properties

CPU = torch.device("cpu")
NAMES = sorted(name for name in WEIGHTINGS if name.startswith("torchjd/"))


@pytest.fixture(autouse=True)
def fresh_instances():
    _instance.cache_clear()
    yield
    _instance.cache_clear()


def gramian(T=5, seed=0):
    D = torch.randn(T, 3 * T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return D @ D.T


def weigh(method, B, state=None):
    torch.manual_seed(0)
    return method.weigh(state or method.init(len(B), CPU), Signals(torch.ones(len(B)), B))


def test_the_names():
    assert {name.partition("/")[2] for name in NAMES} == {
        *("aligned_mtl", "cagrad", "dualproj", "fairgrad", "gradvac", "imtl_g"),
        *("krum", "mgda", "pcd", "pcgrad", "upgrad"),
    }
    assert all(WEIGHTINGS[name].name == name.partition("/")[2] for name in NAMES)


def test_every_gramian_weighting_of_torchjd_has_a_name():
    from torchjd.aggregation._weighting_bases import _GramianWeighting

    classes = {name for name, cls in vars(library).items() if isinstance(cls, type)}
    known = {name for name in classes if issubclass(getattr(library, name), _GramianWeighting)}
    assert known == {WEIGHTINGS[name].peer for name in NAMES}


def test_weights_are_those_of_torchjd_times_the_number_of_tasks():
    for name in NAMES:
        method, B = WEIGHTINGS[name](), gramian()
        weights, _ = weigh(method, B)
        torch.manual_seed(0)
        assert torch.allclose(weights, 5 * method.make(library)(B)), name
        assert weights.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_properties(name):
    method = WEIGHTINGS[name]()
    properties.assert_pure(method)
    if name not in ("torchjd/krum", "torchjd/fairgrad"):
        for B in (torch.zeros(3, 3), torch.full((1, 1), 2.0)):
            assert torch.isfinite(weigh(method, B)[0]).all()
    if name not in ("torchjd/pcgrad", "torchjd/gradvac", "torchjd/pcd"):  # random orders, and a task that is primary
        B, order = gramian(), torch.tensor(properties.ORDER)
        assert torch.allclose(weigh(method, B[order][:, order])[0], weigh(method, B)[0][order], atol=1e-3)
    if name in ("torchjd/upgrad", "torchjd/dualproj", "torchjd/mgda"):
        properties.assert_no_conflict(method)


def test_scale_changes_nothing_for_pcgrad_and_by_hand():
    # g_1 = (1, 0), g_2 = (-1, 1): each loses its part along the other, in whichever order
    B = torch.tensor([[1.0, -1.0], [-1.0, 2.0]])
    # g_1 + g_2 / 2, g_2 + g_1: v = (2, 3/2), w = 2 v
    assert weigh(PCGrad(), B)[0].tolist() == pytest.approx([4.0, 3.0])
    assert weigh(PCGrad(), 1e4 * B)[0].tolist() == pytest.approx([4.0, 3.0])


def test_its_mgda_comes_near_ours():
    B = gramian(4)
    exact = weigh(MGDA(), B)[0]
    assert torch.allclose(weigh(WEIGHTINGS["torchjd/mgda"](1e-9, 5000), B)[0], exact, atol=1e-3)


@pytest.mark.parametrize("method", [GradVac(), PCD(tau=0.5)])
def test_memory_lives_in_the_state(method):
    problems = [gramian(seed=seed) for seed in range(3)]
    state, found = None, []
    for B in problems:
        weights, state = weigh(method, B, state)
        _instance.cache_clear()  # as after a resumed run: nothing but the state is left
        found.append(weights)
        assert state.keys() == method.init(5, CPU).keys()
    peer = method.make(library)
    for B, weights in zip(problems, found, strict=True):
        torch.manual_seed(0)
        assert torch.allclose(weights, 5 * peer(B))


def test_in_a_step():
    theta = torch.zeros(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=1.0), PCGrad(), 2)
    # gradients (1, 0) and (-1, 1): the update of the case by hand, 2 g_1 + 3/2 g_2
    record = step([lambda: theta[0], lambda: theta[1] - theta[0]])
    assert record.weights.tolist() == record.next_weights.tolist() == pytest.approx([4.0, 3.0])
    assert theta.tolist() == pytest.approx([-0.5, -1.5])


def test_a_gradient_that_is_not_finite_is_reported_by_the_record():
    theta = torch.ones(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=1.0), PCGrad(), ["calm", "wild"])
    with pytest.raises(DivergedError, match="wild"):
        step([theta.sum, lambda: theta.sum() * float("nan")]).check()


def test_too_few_tasks():
    with pytest.raises(ConfigError, match=r"n_selected=1 need at least 4 tasks .*, got 3: lower them"):
        Krum().init(3, CPU)
    with pytest.raises(ConfigError, match=r"n_selected=5 need at least 5 tasks"):
        Krum(n_byzantine=0, n_selected=5).init(4, CPU)
    assert Krum().init(4, CPU)["weights"].tolist() == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="torchjd/krum cannot weigh these 2 tasks"):
        weigh(Krum(), gramian(2), Krum().init(4, CPU))


def test_without_torchjd_options_are_known_and_a_step_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchjd.aggregation", raising=False)
    monkeypatch.setitem(sys.modules, "torchjd", None)
    method = PCGrad()
    assert isinstance(method, TorchJD)
    with pytest.raises(ConfigError, match=r"torchjd/pcgrad needs torchjd.*pip install .*\[baselines\]"):
        method.init(2, CPU)


def test_a_missing_solver_is_named(monkeypatch):
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"torchjd/upgrad: .*quadprog.*pip install"):
        UPGrad().init(2, CPU)


"""Those that need neither a solver of their own nor more than three tasks."""

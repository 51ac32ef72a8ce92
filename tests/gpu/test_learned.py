"""Learned losses on a GPU: evidence, composer and retrieval decide as on the CPU."""

from __future__ import annotations

import pytest
import torch

from lossrag.lossbank import (
    LOSSES,
    Batch,
    ComposerConfig,
    LearnedLosses,
    LookAhead,
    LookAheadOptions,
    LossBank,
    OneStep,
    OneStepOptions,
    TaskSpec,
)

CPU = torch.device("cpu")
ROWS = 90


class Loop:
    """One classification task with wrong labels and one regression, drawn on the CPU; class counts stay there."""

    def __init__(self, device, kind, config, bank=None, **options):
        torch.manual_seed(0)
        self.encoder = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh())
        self.heads = torch.nn.ModuleList([torch.nn.Linear(16, 3), torch.nn.Linear(16, 1)])
        self.model = torch.nn.ModuleList([self.encoder, self.heads]).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3)
        data = torch.randn(2, ROWS, 5)
        labels = data[..., :3].argmax(-1)
        labels[0, :36] = torch.randint(3, (36,))
        values = data[..., 3:4] - data[..., 4:5]
        counts = torch.bincount(labels[0]).float()
        self.data = data.to(device)
        self.targets = [[labels[side].to(device), values[side].to(device)] for side in range(2)]
        made = {
            "one step": lambda: OneStep(self.model, OneStepOptions(**options)),
            "look ahead": lambda: LookAhead(self.model, list(self.heads), LookAheadOptions(**options)),
            None: lambda: None,
        }
        self.learned = LearnedLosses(
            [TaskSpec("class", "classification", "cross_entropy", counts), TaskSpec("value", "regression", "l1", None)],
            self.model,
            config,
            total_steps=40,
            bank=bank,
            evidence=made[kind](),
        )

    def rows(self, split, number=None):
        side = ["support", "query"].index(split)

        def outputs():
            features = self.encoder(self.data[side])
            return [(head(features), features) for head in self.heads]

        judges = [LOSSES["cross_entropy"], LOSSES["l1"]]
        return Batch(outputs, self.targets[side], lambda t, z, f: judges[t](z, self.targets[1][t]).mean())

    def run(self, steps=20):
        for step in range(1, steps + 1):
            mixtures = self.learned.begin(step, self.rows)
            features = self.encoder(self.data[0])
            losses = [
                m(head(features), y).mean() for m, head, y in zip(mixtures, self.heads, self.targets[0], strict=True)
            ]
            self.optimizer.zero_grad()
            sum(losses).backward()
            self.optimizer.step()
            self.learned.end(step, self.rows)
        return self


FEW = ("cross_entropy", "mae", "focal_2", "generalised_ce_0.7", "l1", "huber", "squared_error")
FITTING = tuple(name for name in FEW if name in LOSSES)
CASES = {
    "one step": ("one step", ComposerConfig(policy="gradient", candidates=FITTING), {"every": 2}),
    "look ahead": (
        "look ahead",
        ComposerConfig(policy="gradient", candidates=FITTING),
        {"every": 4, "horizon": 4},
    ),
    "uniform": (None, ComposerConfig(policy="uniform", candidates=FITTING), {}),
    "random": ("one step", ComposerConfig(policy="random", candidates=FITTING, k=2), {"every": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_evidence_is_that_of_the_cpu(case, device):
    kind, config, options = CASES[case]
    here, there = (Loop(where, kind, config, **options).run() for where in (device, CPU))
    assert here.learned.composer.contributions.device.type == device.type
    for one, other in zip(here.model.parameters(), there.model.parameters(), strict=True):
        torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=1e-2, atol=1e-3)
    found, expected = here.learned.composer.compositions(), there.learned.composer.compositions()
    for task, shares in expected.items():
        assert found[task].keys() == shares.keys()
        for name, share in shares.items():
            assert found[task][name] == pytest.approx(share, abs=0.02)


def test_all_losses_of_the_library_as_candidates(device):
    here = Loop(device, "one step", ComposerConfig(policy="gradient"), every=5).run(10)
    assert here.learned.composer.contributions.isfinite().all()
    assert all(p.isfinite().all() for p in here.model.parameters())


@pytest.mark.parametrize("policy", ["retrieval"])
def test_the_bank_is_asked_with_contexts_of_the_device(policy, device):
    bank = LossBank.builtin()
    here, there = (
        Loop(where, "look ahead", ComposerConfig(policy=policy), bank=bank, every=4, horizon=4).run()
        for where in (device, CPU)
    )
    contexts, expected = here.learned.contexts.cpu(), there.learned.contexts
    torch.testing.assert_close(contexts[0], expected[0], rtol=1e-3, atol=1e-3, equal_nan=True)
    assert here.learned.composer.compositions().keys() == there.learned.composer.compositions().keys()


def test_state_goes_from_device_to_device(device):
    kind, config, options = CASES["one step"]
    here = Loop(device, kind, config, **options).run(10)
    there, back = Loop(CPU, kind, config, **options), Loop(device, kind, config, **options)
    there.learned.load_state_dict({k: v.cpu() for k, v in here.learned.state_dict().items()})
    back.learned.load_state_dict(there.learned.state_dict())
    assert back.learned.composer.compositions() == here.learned.composer.compositions()
    assert back.learned.composer.contributions.device.type == device.type
    back.model.load_state_dict({k: v.to(device) for k, v in here.model.state_dict().items()})
    back.run(2)

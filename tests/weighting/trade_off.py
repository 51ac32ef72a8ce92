"""Two objectives that cannot both be small (Lin et al. 2019, section 5.1; Fonseca and Fleming), in n dimensions."""

from __future__ import annotations

import torch

from lossrag.weighting import MultiTaskStep

N = 20


def train(method, steps=300, lr=0.2):
    """The losses (steps, 2) on the way from a random theta in [-0.5, 0.5]^n."""
    theta = (torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5).requires_grad_()
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=lr), method, ["first", "second"])
    losses = [lambda sign=sign: 1 - torch.exp(-((theta - sign / N**0.5) ** 2).sum()) for sign in (1.0, -1.0)]
    return torch.stack([step(losses).support_losses for _ in range(steps)])


def is_pareto(losses):
    """Whether losses (2,) are on the front: points between the two optima, theta = s / sqrt(n) with s in [-1, 1]."""
    s = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    front = torch.stack([1 - torch.exp(-((s - 1) ** 2)), 1 - torch.exp(-((s + 1) ** 2))], dim=1)
    return float((front - losses).norm(dim=1).min()) < 5e-3

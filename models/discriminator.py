"""The task discriminator of AdvMTL (Liu, Qiu, Huang, ACL 2017): which task do shared features come from?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.reversal import reverse


class TaskDiscriminator(nn.Module):
    """Shared features (B, F) -> logits (B, tasks) of one linear layer: D(s) = softmax(U s + b).

    With a single task there is nothing to tell apart: its loss is 0, and so are all gradients.
    """

    def __init__(self, features: int, tasks: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, tasks)

    def forward(self, shared: Tensor) -> Tensor:
        logits: Tensor = self.layer(shared)
        return logits

    def loss(self, shared: Tensor, task: int) -> Tensor:
        """Mean cross-entropy () of the features (B, F), all of one task, behind a gradient reversal.

        Its gradient teaches the discriminator to recognise the task, and the encoder of the features to hide it.

        >>> TaskDiscriminator(3, 1).loss(torch.ones(2, 3), 0).item()
        0.0
        """
        logits = self(reverse(shared))
        return F.cross_entropy(logits, torch.full((len(shared),), task, device=shared.device))

    @torch.no_grad()
    def accuracy(self, shared: Tensor, task: int) -> Tensor:
        """Share () of the features (B, F), all of one task, that are told to be of it; 1 / tasks is guessing.

        >>> TaskDiscriminator(3, 1).accuracy(torch.ones(2, 3), 0).item()
        1.0
        """
        told: Tensor = self(shared).argmax(dim=1) == task
        return told.to(shared.dtype).mean()

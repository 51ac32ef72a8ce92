"""A multilayer perceptron for dense inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from lossrag.errors import ConfigError


class MLP(nn.Module):
    """Inputs (B, ...) of one shape -> features (B, hidden[-1]); ReLU after every layer."""

    def __init__(self, input_shape: Sequence[int], hidden: Sequence[int] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        if not hidden or any(width < 1 for width in hidden):
            raise ConfigError(f"MLP needs at least one hidden layer of width >= 1, got {list(hidden)}.")
        layers: list[nn.Module] = [nn.Flatten()]
        for width, next_width in pairwise([prod(input_shape), *hidden]):
            layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.features = hidden[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.layers(inputs)
        return features

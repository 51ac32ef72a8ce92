"""TextCNN (Kim, EMNLP 2014) as in the MetaWeighting paper: parallel convolutions, max over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossrag import ConfigError
from models.max_over_time import margin, max_over_time


class TextCNN(nn.Module):
    """Token ids (B, L) int64 -> features (B, filters * len(kernel_sizes)).

    vectors: word vectors (V, E); row 0 is padding: it is set to zero and stays so.
    trainable: whether the vectors are learned with the rest.
    vector_dropout, dropout: shares in [0, 1) dropped from the embedded words and from the features.
    """

    def __init__(
        self,
        vectors: Tensor,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        filters: int = 64,
        dropout: float = 0.5,
        vector_dropout: float = 0.0,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if not kernel_sizes or any(size < 1 for size in kernel_sizes) or filters < 1:
            raise ConfigError(
                f"TextCNN needs at least one kernel size >= 1 and one filter, got {list(kernel_sizes)} and {filters}."
            )
        # a copy: training must not write into the suite's own table
        vectors = torch.cat([torch.zeros_like(vectors[:1]), vectors[1:]])
        self.embedding = nn.Embedding(
            vectors.shape[0], vectors.shape[1], padding_idx=0, _weight=vectors, _freeze=not trainable
        )
        # these modules hold the parameters; max_over_time computes what they and the pooling would
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(vectors.shape[1], filters, size, padding=size // 2) for size in kernel_sizes]
        )
        self.vector_dropout = nn.Dropout(vector_dropout)
        self.dropout = nn.Dropout(dropout)
        self.features = filters * len(kernel_sizes)

    @property
    def weights(self) -> list[Tensor]:
        """Filters (filters, E, size) of every kernel size."""
        return [cast(nn.Conv1d, convolution).weight for convolution in self.convolutions]

    def forward(self, tokens: Tensor) -> Tensor:
        # id 0 is the zero vector: padding the ids pads the words, without a copy of the embedded batch
        sides = margin([weight.shape[2] for weight in self.weights])
        words = self.vector_dropout(self.embedding(F.pad(tokens, (sides, sides))))
        weights = self.weights
        if torch.is_autocast_enabled(tokens.device.type):
            precision = torch.get_autocast_dtype(tokens.device.type)
            words, weights = words.to(precision), [weight.to(precision) for weight in weights]
        # the bias is constant over time and ReLU is monotone: both commute with the maximum, so pool first
        pooled = max_over_time(words, weights)
        biases = torch.cat([cast(Tensor, convolution.bias) for convolution in self.convolutions])
        features: Tensor = self.dropout(torch.relu(pooled + biases))
        return features

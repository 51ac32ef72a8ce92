"""TextCNN (Kim, EMNLP 2014) as in the MetaWeighting paper: parallel convolutions, max over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from lossrag import ConfigError


class TextCNN(nn.Module):
    """Token ids (B, L) int64 -> features (B, filters * len(kernel_sizes)).

    vectors: word vectors (V, E); row 0 is padding and stays zero.
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
        # clone: training must not write into the suite's own table
        self.embedding = nn.Embedding(
            vectors.shape[0], vectors.shape[1], padding_idx=0, _weight=vectors.clone(), _freeze=not trainable
        )
        self.convolutions = nn.ModuleList(
            nn.Conv1d(vectors.shape[1], filters, size, padding=size // 2) for size in kernel_sizes
        )
        self.vector_dropout = nn.Dropout(vector_dropout)
        self.dropout = nn.Dropout(dropout)
        self.features = filters * len(kernel_sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        words = rearrange(self.vector_dropout(self.embedding(tokens)), "b l e -> b e l")
        # ReLU is monotone, so it commutes with the maximum: pool first, it then sees 1/L of the values
        pooled = [reduce(convolution(words), "b f l -> b f", "max") for convolution in self.convolutions]
        features: Tensor = self.dropout(torch.relu(torch.cat(pooled, dim=1)))
        return features

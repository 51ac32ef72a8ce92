"""TextCNN (Kim, EMNLP 2014) as in the MetaWeighting paper: parallel convolutions, max over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lossrag.errors import ConfigError
from lossrag.models.max_over_time import margin, max_over_time, max_over_time_by_segment
from lossrag.models.segments import embed_by_segment


class TextCNN(nn.Module):
    """Token ids (B, L) int64 -> features (B, filters * len(kernel_sizes)).

    Features of a text do not depend on the texts beside it: behind its end every text has all windows that touch it,
    and an empty one.

    vectors: word vectors (V, E); row 0 is padding: it is set to zero and stays so.
    trainable: whether the vectors are learned with the rest.
    vector_dropout, dropout: shares in [0, 1) dropped from the embedded words and from the features.
    """

    one_task_a_pass = False

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
        width = vectors.shape[1]
        self.embedding = nn.Embedding(len(vectors), width, padding_idx=0, _weight=vectors, _freeze=not trainable)
        # these modules hold the parameters; max_over_time computes what they and the pooling would
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, size, padding=size // 2) for size in kernel_sizes)
        self.vector_dropout = nn.Dropout(vector_dropout)
        self.dropout = nn.Dropout(dropout)
        self.features = filters * len(kernel_sizes)

    def shared_parameters(self) -> list[Tensor]:
        """All trained parameters, in the order in which :meth:`forward_by_segment` takes their copies."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, tokens: Tensor) -> Tensor:
        weights, biases = self._filters()
        words = self.vector_dropout(self.embedding(self._padded(tokens)))
        # the bias is constant over time and ReLU is monotone: both commute with the maximum, so pool first
        scores = max_over_time(words, weights, _precision(tokens)) + torch.cat(biases)
        return cast(Tensor, self.dropout(torch.relu(scores)))

    @property
    def table(self) -> Tensor | None:
        """The word vectors (V, E), when they are trained: the first of :meth:`shared_parameters`."""
        return self.embedding.weight if self.embedding.weight.requires_grad else None

    def forward_by_segment(
        self, tokens: Tensor, sizes: Sequence[int], copies: Sequence[Tensor], lookup: Tensor | None
    ) -> Tensor:
        """The same for consecutive segments of ``sizes[s]`` rows, given S expanded copies (S, ...) of the parameters.

        The gradient of the copies keeps the segments apart (see models/segments.py). Of trained word vectors the copies
        (S, U, E) hold some rows, which ``lookup`` (V,) finds; frozen ones have no copies and need no lookup.
        """
        rest = list(copies)
        if lookup is None:
            words = self.embedding(self._padded(tokens))
        else:
            words = embed_by_segment(self._padded(tokens), self.embedding.weight, rest.pop(0), lookup, sizes)
        pooled = max_over_time_by_segment(self.vector_dropout(words), rest[0::2], sizes, _precision(tokens))
        repeats = torch.tensor(sizes).to(pooled.device, non_blocking=True)
        biases = torch.cat(rest[1::2], dim=1).repeat_interleave(repeats, dim=0, output_size=len(pooled))
        return cast(Tensor, self.dropout(torch.relu(pooled + biases)))

    def _filters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights (filters, E, size) and biases (filters,) of every kernel size."""
        convolutions = [cast(nn.Conv1d, convolution) for convolution in self.convolutions]
        return [c.weight for c in convolutions], [cast(Tensor, c.bias) for c in convolutions]

    def _padded(self, tokens: Tensor) -> Tensor:
        # id 0 is the zero vector: padding the ids pads the words, without a copy of the embedded batch
        sides = margin([weight.shape[2] for weight in self._filters()[0]])
        # behind the longest text one empty window more, which every shorter one has: a text's features are its own
        return F.pad(tokens, (sides, 2 * sides + 1))


def _precision(tokens: Tensor) -> torch.dtype | None:
    """The dtype that autocast asks for, if it is on."""
    kind = tokens.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

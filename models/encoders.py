"""Encoders by name, as dataclasses of their options that build the module for a suite's inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from lossrag.checks import check_choice, check_share, require
from lossrag.errors import ConfigError
from lossrag.models.bert import BERT, POOLINGS, Features
from lossrag.models.mlp import MLP
from lossrag.models.textcnn import TextCNN
from lossrag.registry import Registry


class EncoderOptions(Protocol):
    """Options that know how to build an encoder."""

    def build(self, vectors: Tensor | None, input_shape: tuple[int, ...]) -> nn.Module:
        """A new encoder, for word vectors (V, E) or for dense inputs of one shape."""


@dataclass(frozen=True)
class TextCNNOptions:
    """Paper: kernel sizes 3, 5, 7, GloVe vectors; it states neither filters nor dropout."""

    kernel_sizes: list[int] = field(default_factory=lambda: [3, 5, 7])
    filters: int = 64
    dropout: float = 0.5
    vector_dropout: float = 0.0
    trainable_vectors: bool = False

    def __post_init__(self) -> None:
        check_share(self, "dropout", "vector_dropout")

    def build(self, vectors: Tensor | None, input_shape: tuple[int, ...]) -> TextCNN:
        if vectors is None:
            raise ConfigError("TextCNN reads word tokens, but this suite has none: choose mlp.")
        return TextCNN(
            vectors,
            self.kernel_sizes,
            self.filters,
            self.dropout,
            self.vector_dropout,
            self.trainable_vectors,
        )


@dataclass(frozen=True)
class MLPOptions:
    """Widths of the hidden layers and their dropout."""

    hidden: list[int] = field(default_factory=lambda: [64])
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_share(self, "dropout")

    def build(self, vectors: Tensor | None, input_shape: tuple[int, ...]) -> MLP:
        if vectors is not None:
            raise ConfigError("MLP reads dense inputs, but this suite has word tokens: choose textcnn.")
        return MLP(input_shape, self.hidden, self.dropout)


@dataclass(frozen=True)
class BertOptions:
    """A pre-trained encoder: ``minilm``, a folder, or a name of the Hugging Face hub (extra ``bert``). It
    reads ``tasks.max_tokens`` word pieces of a text.

    pooling: ``cls``, the first piece's last hidden state, or ``mean`` over the pieces. frozen: train the heads alone.
    dropout: of the features. encoder_dropout: inside the encoder, None for what its config.json says.
    """

    encoder: str = "minilm"
    pooling: str = "cls"
    dropout: float = 0.1
    encoder_dropout: float | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        check_share(self, "dropout", "encoder_dropout")
        check_choice(self, "pooling", POOLINGS)
        named = "{encoder} is empty: name minilm, a folder, or a model of the Hugging Face hub."
        require(bool(self.encoder), self, named)

    @property
    def trainable_vectors(self) -> bool:
        """True where the table of word pieces is learned."""
        return not self.frozen

    def load(self, folder: Path) -> BERT:
        """The encoder in ``folder``."""
        return BERT(folder, self.pooling, self.dropout, self.frozen, self.encoder_dropout)

    def build(self, vectors: Tensor | None, input_shape: tuple[int, ...]) -> Features:
        """The module that takes the features of the frozen encoder, when they are the inputs."""
        if not self.frozen or vectors is not None or len(input_shape) != 1:
            raise ConfigError("BERT reads word pieces, but this suite has none: choose textcnn or mlp.")
        return Features(input_shape[0], self.dropout)


ENCODERS: Registry[Callable[..., EncoderOptions]] = Registry("model")
"""All encoders by name, each by the class of its options; add your own with ``@ENCODERS.register("mine")``."""
ENCODERS.add("textcnn", TextCNNOptions)
ENCODERS.add("mlp", MLPOptions)
ENCODERS.add("bert", BertOptions)

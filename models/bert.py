"""A pre-trained encoder of the BERT family (Devlin et al., NAACL 2019), fine-tuned or frozen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossrag import ConfigError
from models.attention import attention_for
from models.pretrained import load_body
from models.segments import embed_by_segment

POOLINGS = ("cls", "mean")
BLOCK_PIECES = 8192
"""Word pieces that go through at once where no graph is kept: bounds the memory of an evaluation."""


class BERT(nn.Module):
    """Word pieces (B, L) int64, ids of the encoder plus 1 and 0 for padding -> features (B, hidden size).

    folder: config.json and safetensors of a Hugging Face encoder.
    pooling: the last hidden state of the first piece (``cls``), or the ``mean`` over all pieces of a text.
    dropout: share in [0, 1) dropped from the features.
    frozen: nothing of it is trained, and inside it nothing is dropped.
    encoder_dropout: share dropped inside, of hidden states and of attention; None for what its config.json says.
    """

    one_task_a_pass = True

    def __init__(
        self,
        folder: Path,
        pooling: str = "cls",
        dropout: float = 0.1,
        frozen: bool = False,
        encoder_dropout: float | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"model.pooling must be 'cls' or 'mean', got {pooling!r}.")
        body, table, width = load_body(folder, encoder_dropout)
        # a row more, for padding, whatever the encoder's own number of it is: the mask hides it
        table = torch.cat([torch.zeros_like(table[:1]), table])
        self.embedding = nn.Embedding(table.shape[0], table.shape[1], padding_idx=0, _weight=table, _freeze=frozen)
        self.body = body.requires_grad_(not frozen)
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.frozen = frozen
        self.features = width
        self.train()

    def train(self, mode: bool = True) -> BERT:
        """Training mode, in which a frozen encoder still drops nothing inside."""
        super().train(mode)
        self.body.train(mode and not self.frozen)
        return self

    @property
    def table(self) -> Tensor | None:
        """The word pieces (V + 1, E), when they are trained: the first of :meth:`shared_parameters`."""
        return None if self.frozen else self.embedding.weight

    def shared_parameters(self) -> list[Tensor]:
        """All trained parameters, in the order in which :meth:`forward_by_segment` takes their copies."""
        return [] if self.frozen else [self.embedding.weight, *self.body.parameters()]

    def forward(self, tokens: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not self.frozen:
            return self._dropped(self._pooled(tokens, self.embedding(tokens), {}))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            blocks = torch.split(tokens, max(1, BLOCK_PIECES // tokens.shape[1]))
            pooled = torch.cat([self._pooled(block, self.embedding(block), {}) for block in blocks])
        return self._dropped(pooled)

    def forward_by_segment(
        self, tokens: Tensor, sizes: Sequence[int], copies: Sequence[Tensor], lookup: Tensor | None
    ) -> Tensor:
        """The same for consecutive segments of ``sizes[s]`` rows, given S expanded copies (S, ...) of the parameters,
        one segment after the other; the copies (S, U, E) of the table hold the rows that ``lookup`` (V + 1,) finds."""
        if self.frozen or lookup is None:
            return self.forward(tokens)
        words = embed_by_segment(tokens, self.embedding.weight, copies[0], lookup, sizes)
        names = [name for name, _ in self.body.named_parameters()]
        segments = zip(*(copy.unbind() for copy in copies[1:]), strict=True)
        parts = zip(torch.split(tokens, list(sizes)), torch.split(words, list(sizes)), segments, strict=True)
        return self._dropped(
            torch.cat([self._pooled(t, w, dict(zip(names, each, strict=True))) for t, w, each in parts])
        )

    def _pooled(self, tokens: Tensor, words: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        mask = tokens > 0
        # the fused attention of the CPU has no forward mode, in which losses are priced; the plain one has
        priced = forward_ad.unpack_dual(words).tangent is not None  # type: ignore[no-untyped-call]
        with sdpa_kernel(SDPBackend.MATH) if priced else nullcontext(), attention_for(words):
            inputs = {"inputs_embeds": words, "attention_mask": mask.long()}
            hidden: Tensor = functional_call(self.body, parameters, kwargs=inputs).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = (mask / mask.sum(1, keepdim=True)).to(hidden.dtype)
        return torch.einsum("ble,bl->be", hidden, weights)

    def _dropped(self, pooled: Tensor) -> Tensor:
        features: Tensor = self.dropout(pooled)
        return features


class Features(nn.Module):
    """Features (B, F) that a frozen encoder computed beforehand; ``dropout``: the share of them that is dropped."""

    def __init__(self, features: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(inputs)
        return dropped

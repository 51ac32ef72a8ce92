"""BERT: a pre-trained encoder of its family (Devlin et al., NAACL 2019), fine-tuned or frozen.

It is read from a folder: safetensors only, in float32, the word table taken out. Attention runs in float32 inside a
bfloat16 autocast of a CPU: PyTorch's fused attention there takes about twice as long, forward and back, in bfloat16 as
in float32 (2.13 with avx512_bf16), which costs most of what the matrix products of an encoder gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from lossrag.checks import one_of
from lossrag.errors import DataError
from lossrag.extras import load_extra
from lossrag.models.segments import embed_by_segment
from lossrag.proof import DamagedFile
from lossrag.tensors import weight_files

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
        one_of("BERT: pooling", pooling, POOLINGS)
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
            pooled = self._pooled(tokens, self.embedding(tokens), {})
        else:
            with torch.no_grad():
                blocks = torch.split(tokens, max(1, BLOCK_PIECES // tokens.shape[1]))
                pooled = torch.cat([self._pooled(block, self.embedding(block), {}) for block in blocks])
        return cast(Tensor, self.dropout(pooled))

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
        pooled = [self._pooled(t, w, dict(zip(names, copy, strict=True))) for t, w, copy in parts]
        return cast(Tensor, self.dropout(torch.cat(pooled)))

    def _pooled(self, tokens: Tensor, words: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        mask = tokens > 0
        # the fused attention of the CPU has no forward mode, in which losses are measured; the plain one has
        measured = forward_ad.unpack_dual(words).tangent is not None  # type: ignore[no-untyped-call]
        with sdpa_kernel(SDPBackend.MATH) if measured else nullcontext(), attention_for(words):
            inputs = {"inputs_embeds": words, "attention_mask": mask.long()}
            hidden: Tensor = functional_call(self.body, parameters, kwargs=inputs).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = (mask / mask.sum(1, keepdim=True)).to(hidden.dtype)
        return torch.einsum("ble,bl->be", hidden, weights)


class Features(nn.Module):
    """Features (B, F) that a frozen encoder computed beforehand; ``dropout``: the share of them that is dropped."""

    def __init__(self, features: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(inputs))


def load_body(folder: Path, dropout: float | None = None) -> tuple[nn.Module, Tensor, int]:
    """The encoder in ``folder`` without word table and pooler, its table (V, E), and the width of its hidden states.

    It is to be called with ``inputs_embeds`` (B, L, E) and ``attention_mask`` (B, L). ``dropout`` replaces every share
    that its config.json names. What random numbers loading may draw leaves no trace. Raises ConfigError without the
    extra ``bert``, DataError when the folder holds something else.
    """
    transformers = load_extra("transformers", "bert", "BERT")
    try:
        weight_files(folder)
    except DamagedFile as reason:
        raise DataError(f"{folder} is no encoder of safetensors alone: {reason}.") from None
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        try:
            body, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise DataError(f"Cannot read an encoder from {folder}: {error}") from error
    missing = [name for name in info["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise DataError(f"{folder}: model.safetensors lacks {len(missing)} weights of its encoder, {missing[0]} first.")
    if body.config.is_encoder_decoder or getattr(body.config, "is_decoder", False):
        raise DataError(f"{folder} holds a decoder ({body.config.model_type}): choose an encoder of the BERT family.")
    table = body.get_input_embeddings().weight.detach()
    body.set_input_embeddings(None)
    if dropout is not None:
        for module in body.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    if getattr(body, "pooler", None) is not None:
        body.pooler = None  # the head reads the last hidden states, so nothing would train it
    return body, table, int(body.config.hidden_size)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars and without the list of weights that are not needed here (those of the pre-training heads)."""
    control = transformers.utils.logging
    level, bars = control.get_verbosity(), control.is_progress_bar_enabled()
    control.set_verbosity_error()
    control.disable_progress_bar()
    try:
        yield
    finally:
        control.set_verbosity(level)
        if bars:
            control.enable_progress_bar()


def attention_for(inputs: Tensor) -> AbstractContextManager[Any]:
    """The context for an encoder to run on ``inputs`` in: float32 attention in a CPU's autocast, nothing elsewhere."""
    if inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return Float32Attention()
    return nullcontext()


class Float32Attention(TorchFunctionMode):
    """Calls of ``scaled_dot_product_attention`` within take their inputs in float32, and return what they were in."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        dtype = args[0].dtype
        wide = {name: _wide(value) for name, value in (kwargs or {}).items()}
        with torch.autocast(args[0].device.type, enabled=False):
            return func(*map(_wide, args), **wide).to(dtype)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

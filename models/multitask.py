"""Parameter sharing: one encoder for all (hard sharing), one each (single-task learning), or both (shared-private)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from lossrag.checks import one_of
from lossrag.errors import ConfigError
from lossrag.models.adversarial import TaskDiscriminator

SHARING = ("hard", "none", "shared_private")
"""How tasks share an encoder: one for all, one each, or a shared and a private one each (AdvMTL)."""


class Outputs(NamedTuple):
    """Logits and features of a model for a batch of one task, or of several one after the other."""

    logits: Tensor
    features: Tensor


@runtime_checkable
class SegmentEncoder(Protocol):
    """An encoder that takes one expanded copy of its parameters per segment of the batch."""

    one_task_a_pass: bool
    """True where a pass over several tasks gains nothing: it would only hold the graphs of all of them at once."""

    def shared_parameters(self) -> list[Tensor]: ...

    @property
    def table(self) -> Tensor | None:
        """The first shared parameter, when it is a table of which only the rows that a batch reads are copied."""

    def forward_by_segment(
        self, tokens: Tensor, sizes: Sequence[int], copies: Sequence[Tensor], lookup: Tensor | None
    ) -> Tensor: ...


class MultiTaskModel(nn.Module):
    """One linear head per task on a shared encoder, on an encoder of its own per task, or on both side by side.

    make_encoder: builds one encoder; called once with ``sharing="hard"``, T times with ``sharing="none"``, T + 1 times
        with ``"shared_private"`` (Liu, Qiu, Huang, ACL 2017): the features of the shared encoder, the first, and of the
        task's own are concatenated.
    outputs: logits per task, e.g. its number of classes.
    discriminated: whether a task discriminator stands beside the heads; it reads the shared features of
        ``sharing="shared_private"``.
    precision: dtype that the encoders autocast to, None for that of their parameters. Heads and losses keep theirs.
    """

    def __init__(
        self,
        make_encoder: Callable[[], nn.Module],
        outputs: Sequence[int],
        sharing: str = "hard",
        precision: torch.dtype | None = None,
        discriminated: bool = False,
    ) -> None:
        super().__init__()
        one_of("MultiTaskModel: sharing", sharing, SHARING)
        copies = {"hard": 1, "none": len(outputs), "shared_private": 1 + len(outputs)}[sharing]
        self.sharing = sharing
        self.encoders = nn.ModuleList(make_encoder() for _ in range(copies))
        widths = [sum(_width(encoder) for encoder in self._encoders(t)) for t in range(len(outputs))]
        self.heads = nn.ModuleList(nn.Linear(width, size) for width, size in zip(widths, outputs, strict=True))
        self.discriminator: TaskDiscriminator | None = None
        if discriminated:
            if sharing != "shared_private":
                raise ConfigError(f"MultiTaskModel: discriminated needs sharing='shared_private', got {sharing!r}.")
            self.discriminator = TaskDiscriminator(_width(self.encoders[0]), len(outputs))
        self.precision = precision

    def forward(self, inputs: Tensor, task: int) -> Tensor:
        """Logits (B, outputs[task]) of one task."""
        return self.outputs(inputs, task).logits

    def outputs(self, inputs: Tensor, task: int) -> Outputs:
        """Logits (B, outputs[task]) and features (B, F) of one task."""
        return self._outputs(task, *(self._encode(encoder, inputs) for encoder in self._encoders(task)))

    def _encoders(self, task: int) -> list[nn.Module]:
        """The encoders that a task reads: the shared one first."""
        if self.sharing == "shared_private":
            return [self.encoders[0], self.encoders[1 + task]]
        return [self.encoders[task % len(self.encoders)]]

    def _outputs(self, task: int, *parts: Tensor) -> Outputs:
        features = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return Outputs(self.heads[task](features), features)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The shared (B, F) and private (B, F) part of the features of a task, with ``sharing="shared_private"``."""
        shared, private = features.chunk(2, dim=1)
        return shared, private

    def forward_shared(self, inputs: Tensor) -> list[Outputs]:
        """Outputs of every task for one shared input (B, ...): each encoder runs once."""
        features = {encoder: self._encode(encoder, inputs) for encoder in self.encoders}
        return [self._outputs(t, *(features[encoder] for encoder in self._encoders(t))) for t in range(len(self.heads))]

    def forward_joint(self, inputs: Sequence[Tensor]) -> list[Outputs]:
        """Outputs of every task for its own inputs, with one pass through a shared encoder.

        Token batches (B_t, L_t) of different widths are padded with id 0 to the widest.
        """
        if self.sharing == "none":
            return [self.outputs(batch, task) for task, batch in enumerate(inputs)]
        features = torch.split(self._encode(self.encoders[0], stack_padded(inputs)), [len(batch) for batch in inputs])
        if self.sharing == "hard":
            return [self._outputs(task, part) for task, part in enumerate(features)]
        private = [self._encode(self.encoders[1 + task], batch) for task, batch in enumerate(inputs)]
        return [self._outputs(task, *both) for task, both in enumerate(zip(features, private, strict=True))]

    def forward_joint_stacked(self, inputs: Sequence[Tensor]) -> Outputs:
        """:meth:`forward_joint` for tasks that have C outputs each and share an encoder: (sum of rows, ...)."""
        features = self._encode(self.encoders[0], stack_padded(inputs))
        heads = [cast(nn.Linear, head) for head in self.heads]
        stacks = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        return Outputs(_stacked_logits(features, [len(batch) for batch in inputs], *stacks), features)

    def _encode(self, encode: Callable[..., Tensor], inputs: Tensor, *segments: Any) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=self.precision, enabled=self.precision is not None):
            features = encode(inputs, *segments)
        return features.to(cast(nn.Linear, self.heads[0]).weight.dtype)

    def segment_encoder(self) -> SegmentEncoder | None:
        """The shared encoder, when it can keep the gradients of tasks apart in one pass; else None."""
        encoder = self.encoders[0]
        return encoder if self.sharing == "hard" and isinstance(encoder, SegmentEncoder) else None

    def forward_by_task(
        self,
        encoder: SegmentEncoder,
        inputs: Mapping[int, Tensor],
        copies: Sequence[Tensor],
        heads: Sequence[Tensor],
        lookup: Tensor | None = None,
    ) -> list[Outputs]:
        """Outputs of the tasks ``inputs`` holds, in one pass that keeps their gradients apart.

        copies: one copy per task of the encoder's parameters.
        heads: weights (sum of outputs, F) and biases (sum of outputs,) of the tasks, one after the other.
        """
        features = torch.split(self._features(encoder, inputs, copies, lookup), [len(b) for b in inputs.values()])
        outputs = [len(cast(Tensor, self.heads[task].bias)) for task in inputs]
        weights, biases = (torch.split(stack, outputs) for stack in heads)
        parts = zip(features, weights, biases, strict=True)
        return [Outputs(nn.functional.linear(part, weight, bias), part) for part, weight, bias in parts]

    def forward_stacked(
        self,
        encoder: SegmentEncoder,
        inputs: Mapping[int, Tensor],
        copies: Sequence[Tensor],
        heads: Sequence[Tensor],
        lookup: Tensor | None = None,
    ) -> Outputs:
        """The same for tasks that have C outputs each: (sum of rows, ...), task after task."""
        features = self._features(encoder, inputs, copies, lookup)
        return Outputs(_stacked_logits(features, [len(batch) for batch in inputs.values()], *heads), features)

    def _features(
        self, encoder: SegmentEncoder, inputs: Mapping[int, Tensor], copies: Sequence[Tensor], lookup: Tensor | None
    ) -> Tensor:
        batches = list(inputs.values())
        sizes = [len(batch) for batch in batches]
        return self._encode(encoder.forward_by_segment, stack_padded(batches), sizes, copies, lookup)


def _width(encoder: nn.Module) -> int:
    return int(cast(int, encoder.features))


def _stacked_logits(features: Tensor, sizes: Sequence[int], weights: Tensor, biases: Tensor) -> Tensor:
    """Each segment of ``sizes[s]`` rows of features (N, F) through a head of its own: logits (N, C).

    weights (S C, F), biases (S C,): the heads one after the other.
    """
    weight, bias = weights.view(len(sizes), -1, weights.shape[1]), biases.view(len(sizes), -1)
    if len(set(sizes)) == 1:
        return torch.baddbmm(bias[:, None], features.view(len(sizes), -1, features.shape[1]), weight.mT).flatten(0, 1)
    ends = torch.tensor(sizes).to(features.device, non_blocking=True)
    held = torch.arange(max(sizes), device=features.device) < ends[:, None]
    padded = features.new_zeros(*held.shape, features.shape[1]).masked_scatter(held[:, :, None], features)
    logits = torch.baddbmm(bias[:, None], padded, weight.mT)
    return torch.masked_select(logits, held[:, :, None]).view(len(features), -1)


def stack_padded(batches: Sequence[Tensor]) -> Tensor:
    """Concatenate (B_t, L_t) batches along the rows, padding their columns with 0 to the widest.

    >>> stack_padded([torch.tensor([[1, 2]]), torch.tensor([[3]])]).tolist()
    [[1, 2], [3, 0]]
    """
    if len({batch.shape[1:] for batch in batches}) == 1:
        return torch.cat(list(batches))
    width = max(batch.shape[1] for batch in batches)
    return torch.cat([nn.functional.pad(batch, (0, width - batch.shape[1])) for batch in batches])

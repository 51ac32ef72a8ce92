"""Linear layers on one shared input: gradients of T tasks kept as factors instead of being formed.

The gradient of task t is delta_t^T a, with the layer's inputs a (B, in) and the gradient delta_t (B, out) of the loss
at its outputs. All that is read off the gradients follows from the factors:
    sum_t c_t delta_t^T a = (sum_t c_t delta_t)^T a                     one product instead of T
    <delta_q^T b, delta_s^T a> = <delta_q, (b a^T) delta_s>             (b a^T) is B x B, once for all tasks
which is less work than forming 2 T gradients when the batch has fewer rows than the layer has inputs.

A hook on the layer sees its input and where its output stands in the graph. A backward pass that is asked for the
gradients there, and not for those of the weights, costs half as much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lossrag.weighting.gradients.places import columns
from lossrag.weighting.training.readable import readable


class LinearTaps:
    """The plain linear layers of ``model`` that nothing else shares its parameters with."""

    def __init__(self, model: nn.Module, parameters: Sequence[Tensor]) -> None:
        position = {id(parameter): i for i, parameter in enumerate(parameters)}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self._layers: dict[nn.Linear, tuple[int, int | None]] = {}
        for module in model.modules():
            if type(module) is not nn.Linear:
                continue
            own = [p for p in (module.weight, module.bias) if p is not None]
            if all(id(p) in position and uses[id(p)] == 1 for p in own):
                bias = None if module.bias is None else position[id(module.bias)]
                self._layers[module] = (position[id(module.weight)], bias)
        self._trusted: dict[int, bool] = {}

    @contextmanager
    def watch(self) -> Iterator[dict[int, TappedLayer]]:
        """The layers that are called inside the block, by position of the weight."""
        seen: dict[int, TappedLayer] = {}

        def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # a compiled model is not looked into
            if torch.compiler.is_compiling():
                return
            weight, bias = self._layers[module]
            if not output.requires_grad or self._trusted.get(weight) is False:
                return
            layer = seen.setdefault(weight, TappedLayer(weight, bias, module.weight.shape))
            value = inputs[0].detach().to(module.weight.dtype)  # under autocast it comes in halves
            layer.inputs.append(value)
            layer.versions.append(value._version)
            layer.edges.append(get_gradient_edge(output))  # stays put when an activation overwrites the output
            layer.sizes.append(output.shape)

        handles = [module.register_forward_hook(hook) for module in self._layers]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def trusted(
        self, layers: Sequence[TappedLayer], losses: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> list[TappedLayer]:
        """Those whose factors give what autograd gives; compared once per layer, as weights may be used elsewhere.

        A model that reads ``layer.weight`` itself, or has hooks of its own, keeps formed gradients for that layer.
        """
        new = [layer for layer in layers if layer.weight not in self._trusted]
        if new and readable(losses[0]):
            total = torch.stack([loss.float() for loss in losses]).sum()
            edges = [edge for layer in new for edge in layer.edges]
            at_edges = torch.autograd.grad(total, edges, retain_graph=True, allow_unused=True)
            weights = [parameters[layer.weight] for layer in new]
            expected = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
            rest = iter(at_edges)
            for layer, reference in zip(new, expected, strict=True):
                gradient = layer.gradient(stack_calls(layer.inputs), [next(rest) for _ in layer.edges])
                self._trusted[layer.weight] = _agree(gradient, reference)
        return [layer for layer in layers if self._trusted.get(layer.weight, True)]


@dataclass
class TappedLayer:
    """The calls of one layer in one forward pass; ``weight`` and ``bias`` are positions of parameters."""

    weight: int
    bias: int | None
    shape: torch.Size
    inputs: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)
    sizes: list[torch.Size] = field(default_factory=list)

    def pays_off(self, tasks: int) -> bool:
        """True where its gradients are better kept as factors, and its inputs are still what it was given."""
        rows = sum(value.shape[:-1].numel() for value in self.inputs)
        kept = all(value._version == version for value, version in zip(self.inputs, self.versions, strict=True))
        return kept and pays_off(rows, self.shape[1], self.shape[0], tasks)

    def gradient(self, inputs: Tensor, at_edges: Sequence[Tensor | None]) -> LinearGradient | None:
        """Its gradient from those at the outputs of the calls, None where a task does not depend on one."""
        if all(value is None for value in at_edges):
            return None
        calls = zip(at_edges, self.sizes, strict=True)
        filled = [inputs.new_zeros(size) if value is None else value for value, size in calls]
        return LinearGradient(self.weight, inputs, stack_calls(filled).to(inputs.dtype))


@dataclass(frozen=True)
class LinearGradient:
    """The gradient delta^T a of the weight at ``position``: ``inputs`` a (B, in), ``outputs`` delta (B, out)."""

    position: int
    inputs: Tensor
    outputs: Tensor

    def formed(self) -> Tensor:
        """(1, out, in)."""
        return (self.outputs.mT @ self.inputs)[None]


class LinearBlock:
    """The factors of one layer in one step."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._tasks: list[int] = []
        self._outputs: list[Tensor] = []
        self._inputs: Tensor | None = None
        self._stacked: Tensor | None = None
        self._carried: tuple[Tensor, Tensor] | None = None

    @property
    def tasks(self) -> list[int]:
        """The tasks that touched the layer."""
        return self._tasks

    def of(self, task: int) -> list[Tensor]:
        """The gradient (B, out) at the outputs for one task, if it is there."""
        return [self._outputs[self._tasks.index(task)]] if task in self._tasks else []

    def write(self, task: int, gradient: LinearGradient) -> None:
        """Keep the factors; the inputs are those of all tasks."""
        self._tasks.append(task)
        self._outputs.append(gradient.outputs)
        self._inputs = gradient.inputs

    def factors(self) -> tuple[Tensor, Tensor]:
        """Inputs (B, in), and for the k tasks the gradients at the outputs (k, B, out)."""
        assert self._inputs is not None
        if self._stacked is None:
            self._stacked = torch.stack(self._outputs)
            self._outputs = list(self._stacked)  # views of the stack: held once
        return self._inputs, self._stacked

    def combine(self, coefficients: Tensor) -> Tensor:
        """sum_t coefficients[t] * gradient_t, (out, in)."""
        inputs, outputs = self.factors()
        share = coefficients[columns(self._tasks, outputs.device)].to(outputs.dtype)
        summed = (share @ outputs.flatten(1)).view(outputs.shape[1:])
        return summed.mT @ inputs

    def add_gramian(self, total: Tensor) -> None:
        """Add the inner products of the gradients among themselves to ``total`` (T, T)."""
        inputs, outputs = self.factors()
        place = columns(self._tasks, outputs.device)
        for i, task in enumerate(self._tasks):
            total[task, place] += self._products(inputs, outputs[i])

    def add_inner(self, total: Tensor, gradient: LinearGradient, factor: float) -> None:
        """Add factor * <gradient, gradient_t> to ``total`` (1, T) for every task held."""
        if len(self._tasks) == 1:  # nothing to share the (B, B) product with
            self.add_inner_formed(total, gradient.formed() * factor)
        else:
            total[0, columns(self._tasks, total.device)] += self._products(gradient.inputs, gradient.outputs) * factor

    def add_inner_formed(self, total: Tensor, gradients: Tensor) -> None:
        """Add <gradients[i], gradient_t> to ``total`` (r, T), for gradients (r, out, in)."""
        inputs, outputs = self.factors()
        seen = gradients @ inputs.mT  # (r, out, B)
        total[:, columns(self._tasks, total.device)] += seen.flatten(1) @ outputs.mT.flatten(1).mT

    def _products(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        own, deltas = self.factors()
        if self._carried is None or self._carried[0] is not inputs:
            self._carried = (inputs, ((inputs @ own.mT) @ deltas).flatten(1))
        return self._carried[1] @ outputs.reshape(-1)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        carried = 0 if self._carried is None else self._carried[1].nbytes
        return carried + sum(outputs.nbytes for outputs in self._outputs)


def pays_off(rows: int, inputs: int, outputs: int, tasks: int) -> bool:
    """True where factors cost fewer multiplications than forming the support and query gradients of all tasks, and no
    more memory than the formed ones of the support: twice ``rows`` by ``outputs`` for each task.

    >>> pays_off(64, 512, 512, 16), pays_off(256, 64, 512, 16)
    (True, False)
    """
    factors = rows * rows * inputs + tasks * rows * outputs * (rows + tasks)
    return 2 * rows <= inputs and factors < tasks * inputs * outputs * (2 * rows + tasks)


def stack_calls(values: Sequence[Tensor]) -> Tensor:
    """(..., n) tensors of several calls of a layer as one (rows, n)."""
    flat = [value.reshape(-1, value.shape[-1]) for value in values]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _agree(gradient: LinearGradient | None, reference: Tensor | None) -> bool:
    if gradient is None or reference is None:
        return gradient is None and reference is None
    error = (gradient.formed()[0] - reference).norm()
    return bool(error <= 0.02 * reference.norm())

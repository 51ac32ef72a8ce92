"""Watches the linear layers of a model, so that tasks on one shared input need not form T gradients of each.

What a hook sees of a layer is its input and where its output stands in the graph. A backward pass that is asked for
the gradients there, and not for those of the weights, costs half as much; weighting/linear_block.py does the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from weighting.linear_block import LinearGradient, pays_off, stack_calls


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
        """Whether its gradients are better kept as factors, and its inputs are still what it was given."""
        rows = sum(value.shape[:-1].numel() for value in self.inputs)
        kept = all(value._version == version for value, version in zip(self.inputs, self.versions, strict=True))
        return kept and pays_off(rows, self.shape[1], self.shape[0], tasks)

    def joined_inputs(self) -> Tensor:
        """The inputs of all calls (rows, in)."""
        return stack_calls(self.inputs)

    def gradient(self, inputs: Tensor, at_edges: Sequence[Tensor | None]) -> LinearGradient | None:
        """From the gradients at the outputs of the calls, None where a task does not depend on one."""
        if all(value is None for value in at_edges):
            return None
        filled = [
            inputs.new_zeros(size) if value is None else value for value, size in zip(at_edges, self.sizes, strict=True)
        ]
        return LinearGradient(self.weight, inputs, stack_calls(filled).to(inputs.dtype))


class LinearTaps:
    """The plain linear layers of ``model`` that nothing else shares its parameters with."""

    def __init__(self, model: nn.Module, parameters: Sequence[Tensor]) -> None:
        position = {id(parameter): i for i, parameter in enumerate(parameters)}
        uses = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self._layers: dict[nn.Module, tuple[int, int | None]] = {}
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

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight, bias = self._layers[module]
            if not output.requires_grad or self._trusted.get(weight) is False:
                return
            assert isinstance(module, nn.Linear)
            layer = seen.setdefault(weight, TappedLayer(weight, bias, module.weight.shape))
            value = inputs[0].detach()
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
        if new and losses[0].device.type != "meta":
            total = torch.stack([loss.float() for loss in losses]).sum()
            edges = [edge for layer in new for edge in layer.edges]
            found = torch.autograd.grad(total, edges, retain_graph=True, allow_unused=True)
            weights = [parameters[layer.weight] for layer in new]
            expected = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
            start = 0
            for layer, reference in zip(new, expected, strict=True):
                part = found[start : start + len(layer.edges)]
                start += len(layer.edges)
                self._trusted[layer.weight] = _agree(layer.gradient(layer.joined_inputs(), part), reference)
        return [layer for layer in layers if self._trusted.get(layer.weight, True)]


def _agree(gradient: LinearGradient | None, reference: Tensor | None) -> bool:
    if gradient is None or reference is None:
        return gradient is None and reference is None
    error = (gradient.formed()[0] - reference).norm()
    return bool(error <= 0.02 * reference.norm())

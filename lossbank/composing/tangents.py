"""Tangents: how what a model computes moves as its parameters move, the product of its Jacobian with a direction.

Forward mode gives it for the price of a second pass. Fused kernels (attention, LSTM) have no forward derivative, but
what they fuse has; a function of one's own that has none may still be differentiated backwards twice: the pull-back
J' p is linear in p, and the derivative of <J' p, v> by p is J v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossrag.errors import ConfigError

Point = Mapping[str, Tensor]
"""A tensor by name of the parameter, for those that move; the others of the model stay as they are."""
Function = Callable[[], Sequence[Tensor]]
Moved = list[tuple[Tensor, Tensor]]
"""(value, tangent) of every tensor that a function computes."""


class PushForward:
    """Tangents of what ``function`` computes with ``model``, taken in the first way that the model's layers allow.

    It is remembered for the next call. Raises ConfigError, naming the layer, where there is none.
    """

    def __init__(self) -> None:
        self._ways = [_forward_mode, _unfused, _double_backward]

    def __call__(self, model: nn.Module, point: Point, direction: Point, function: Function) -> Moved:
        """See :func:`push_forward`."""
        while True:
            try:
                return self._ways[0](model, point, direction, function)
            except NotImplementedError as error:
                if len(self._ways) == 1:
                    layer = _layer_without(model, point, direction, function)
                    raise ConfigError(
                        f"Evidence one step ahead: {layer} can be differentiated neither forwards nor backwards twice "
                        f"({str(error).splitlines()[0]}). Write it with other operations (a torch.autograd.Function "
                        f"with a jvp, or with a backward of torch operations and no once_differentiable), or look "
                        f"ahead with the heads, which needs neither: LookAhead, loss.evidence=look_ahead."
                    ) from error
                del self._ways[0]


def push_forward(model: nn.Module, point: Point, direction: Point, function: Function) -> Moved:
    """(value, tangent) of every tensor that ``function`` computes with ``model`` at the parameters ``point``.

    point, direction: by name of the parameter, those that move; the others of the model stay as they are.
    The tangent is J direction, with J the Jacobian of the value with respect to the parameters at ``point``; zeros
    where the value does not depend on them. No graph is left. ``function`` may be called more than once. Raises
    ConfigError, naming the layer, where a layer has neither a forward derivative nor a second backward one.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> at, along = {"weight": torch.ones(1, 2)}, {"weight": torch.tensor([[1.0, 2.0]])}
    >>> [(value, tangent)] = push_forward(layer, at, along, lambda: [layer(torch.tensor([[3.0, 4.0]]))])
    >>> value.item(), tangent.item()
    (7.0, 11.0)
    """
    return PushForward()(model, point, direction, function)


class _Call(nn.Module):
    """A function that reads the model, as a module, which functional_call can lend other parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Function) -> Sequence[Tensor]:
        return function()


def _computed(model: nn.Module, parameters: Point, function: Function) -> Sequence[Tensor]:
    lent = {f"model.{name}": value for name, value in parameters.items()}
    values: Sequence[Tensor] = functional_call(_Call(model), lent, (function,))
    return values


def _forward_mode(model: nn.Module, point: Point, direction: Point, function: Function) -> Moved:
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value, direction[name])  # type: ignore[no-untyped-call]
            for name, value in point.items()
        }
        return [_parts(value) for value in _computed(model, duals, function)]


def _unfused(model: nn.Module, point: Point, direction: Point, function: Function) -> Moved:
    with _separate_kernels():
        return _forward_mode(model, point, direction, function)


def _double_backward(model: nn.Module, point: Point, direction: Point, function: Function) -> Moved:
    with torch.enable_grad(), _separate_kernels():
        held = {name: value.detach().requires_grad_() for name, value in point.items()}
        values = _computed(model, held, function)
        moving = [value for value in values if value.requires_grad]
        pulls = [torch.zeros_like(value, requires_grad=True) for value in moving]
        broken: list[str] = []
        with _watched(moving, broken):
            back = torch.autograd.grad(moving, list(held.values()), pulls, create_graph=True, allow_unused=True)
        if broken:
            raise NotImplementedError(f"the backward of {broken[0]} has no derivative")
        pairs = [(at, direction[name]) for name, at in zip(held, back, strict=True) if at is not None]
        products, along = zip(*pairs, strict=True) if pairs else ((), ())
        try:
            tangents = torch.autograd.grad(products, pulls, along, materialize_grads=True) if pairs else pulls
        except RuntimeError as error:  # what autograd says of a kernel whose backward has no derivative
            raise NotImplementedError(str(error)) from error
    found = iter(tangents)
    still = torch.zeros_like
    return [(v.detach().clone(), (next(found) if v.requires_grad else still(v)).detach()) for v in values]


@contextmanager
def _watched(values: Sequence[Tensor], broken: list[str]) -> Iterator[None]:
    """Names the functions of one's own behind ``values`` that pass a gradient back without its graph.

    Autograd would take what lies behind them for constant, without a word.
    """

    def watch(name: str, back: Sequence[Tensor | None], ahead: Sequence[Tensor | None]) -> None:
        if any(gradient is not None and gradient.requires_grad for gradient in ahead):
            cut = [g for g in back if g is not None and (g.grad_fn is None or g.grad_fn.name().endswith("Error"))]
            broken.extend(name for _ in cut)

    seen: set[object] = set()
    nodes = [value.grad_fn for value in values]
    with ExitStack() as hooks:
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            if isinstance(node, BackwardCFunction):
                hooks.callback(node.register_hook(partial(watch, node.name())).remove)
        yield


@contextmanager
def _separate_kernels() -> Iterator[None]:
    """Attention and recurrent layers as the operations that they are made of."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for backend in (torch.backends.mkldnn, torch.backends.cudnn):
            stack.callback(setattr, backend, "enabled", backend.enabled)
            setattr(backend, "enabled", False)  # noqa: B010 - a property that the types do not tell of
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def _layer_without(model: nn.Module, point: Point, direction: Point, function: Function) -> str:
    """The innermost layer that forward mode does not get through, in words."""
    entered: list[str] = []

    def enter(text: str, *_: object) -> None:
        entered.append(text)

    def leave(*_: object) -> None:
        entered.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            text = f"the layer {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
            hooks.callback(module.register_forward_pre_hook(partial(enter, text)).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        with suppress(NotImplementedError):
            _unfused(model, point, direction, function)
    return entered[-1] if entered else "a function outside of its layers"


def _parts(dual: Tensor) -> tuple[Tensor, Tensor]:
    value, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return value.clone(), torch.zeros_like(value) if tangent is None else tangent.clone()

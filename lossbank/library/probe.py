"""Probes: small batches on which a loss is tried before it enters the library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from lossrag.errors import ConfigError
from lossrag.lossbank.library.contract import Loss, read_labels
from lossrag.lossbank.library.inputs import LossInputs

BATCH = 6
FEATURES = 7
OUTPUTS = {"classification": (2, 5), "regression": (1, 3)}


def probes(target_kind: str, dtype: torch.dtype = torch.float32) -> Iterator[LossInputs]:
    """Ordinary batches of 6 samples, with all that a loss can ask for: 2 and 5 classes, or 1 and 3 outputs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32).to(dtype)

    for K in OUTPUTS[target_kind]:
        classes = torch.tensor([k % K for k in (0, 1, 2, 3, 4, 0)])
        yield LossInputs(
            normal(BATCH, K),
            classes if target_kind == "classification" else normal(BATCH, K),
            normal(BATCH, FEATURES),
            torch.tensor([40.0 / (k + 1) ** 2 for k in range(K)], dtype=torch.float32).to(dtype),
        )


def check_loss(loss: Loss) -> None:
    """Raises ConfigError, naming the loss, when it breaks the contract on one of the probes."""
    moved = False
    with torch.enable_grad():
        for probe in probes(loss.target_kind):
            gradients = _finite_gradients(loss, probe)
            if not gradients:
                raise ConfigError(
                    f"Loss {loss.name!r} gives no gradient to {_receivers(loss)}: compute it with torch operations on "
                    f"them."
                )
            moved |= any(bool(gradient.any()) for gradient in gradients)
            _check_inputs_are_left_alone(loss, probe)
            if loss.relational:
                _finite_gradients(loss, probe.rows(0, 1), " in a batch of one sample")
                alike = replace(probe, targets=probe.targets[:1].expand_as(probe.targets).clone())
                _finite_gradients(loss, alike, " in a batch where all targets are the same")
                _check_labels(loss, probe)
            else:
                _check_pointwise(loss, probe)
    if not moved:
        raise ConfigError(
            f"Loss {loss.name!r} gives no gradient to {_receivers(loss)}: it is zero on all ordinary batches."
        )


def _receivers(loss: Loss) -> str:
    return "the logits or the features" if "features" in loss.needs else "the logits"


def _values(loss: Loss, probe: LossInputs) -> Tensor:
    samples, K = probe.logits.shape
    try:
        values = loss.of(read_labels(probe, [loss]))
    except ConfigError:  # it explains itself
        raise
    except Exception as error:
        given = "integer classes (B,)" if loss.target_kind == "classification" else "float values (B, K)"
        raise ConfigError(
            f"Loss {loss.name!r} raised {type(error).__name__}: {error}. It was called with logits (B, K) = "
            f"({samples}, {K}) and, for target_kind {loss.target_kind!r}, {given} as targets."
        ) from error
    if not isinstance(values, Tensor):
        raise ConfigError(f"Loss {loss.name!r} must return a tensor, got {type(values).__name__}.")
    if values.shape != (samples,):
        raise ConfigError(
            f"Loss {loss.name!r} must return one value per sample, shape ({samples},) for {samples} samples, "
            f"got {tuple(values.shape)}: do not reduce over the batch."
        )
    return values


def _finite_gradients(loss: Loss, probe: LossInputs, where: str = "") -> list[Tensor]:
    """Gradients of the summed values with respect to whatever they depend on; refuses what is not finite."""
    assert probe.features is not None
    inputs = [leaf.detach().clone().requires_grad_() for leaf in (probe.logits, probe.features)]
    values = _values(loss, replace(probe, logits=inputs[0], features=inputs[1]))
    _check_it_learns_nothing(loss, values, inputs)
    try:
        received = torch.autograd.grad(values.sum(), inputs, allow_unused=True) if values.requires_grad else ()
    except Exception as error:  # whatever its own backward pass, or autograd, may object to
        said = str(error).split(" Hint:")[0].rstrip(".")
        raise ConfigError(
            f"Loss {loss.name!r}: autograd cannot follow it back, {type(error).__name__}: {said}. Leave tensors as "
            f"they are once they were computed: p = p - 1, not p -= 1 or p[i] -= 1."
        ) from error
    gradients = [gradient for gradient in received if gradient is not None]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in [values, *gradients]):
        raise ConfigError(f"Loss {loss.name!r} is not finite, or its gradient is not, on ordinary logits{where}.")
    return gradients


def _check_it_learns_nothing(loss: Loss, values: Tensor, inputs: list[Tensor]) -> None:
    """Refuses a module with trainable parameters, and a function that reads some from elsewhere."""
    module = loss.function if isinstance(loss.function, nn.Module) else None
    named = {} if module is None else {name: p for name, p in module.named_parameters() if p.requires_grad}
    own = list(named)
    seen, ahead = set(), [values.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if leaf is not None and not any(leaf is one for one in [*inputs, *named.values()]):
            own.append(f"a tensor {tuple(leaf.shape)}")
    if own:
        raise ConfigError(
            f"Loss {loss.name!r} holds trainable parameters ({', '.join(own)}), which no optimiser of a run would "
            f"train. Make them numbers, hyperparameters of the loss, or call requires_grad_(False) on them."
        )


def _check_inputs_are_left_alone(loss: Loss, probe: LossInputs) -> None:
    rows = read_labels(probe, [loss])
    given = {name: part for name, part in vars(rows).items() if isinstance(part, Tensor)}
    before = {name: part.clone() for name, part in given.items()}
    loss.of(rows)
    changed = [name for name, part in given.items() if not torch.equal(part, before[name])]
    if changed:
        raise ConfigError(
            f"Loss {loss.name!r} writes into its {' and '.join(changed)}, which other losses read after it: work on a "
            f"copy, or with operations that are not in place."
        )


def _check_labels(loss: Loss, probe: LossInputs) -> None:
    """Refuses a loss that compares samples with some that have no label."""
    known = torch.ones(BATCH, dtype=torch.bool)
    known[[1, 4]] = False
    rows = replace(probe, labelled=known)
    if not torch.allclose(_values(loss, rows)[known], _values(loss, rows.present()), rtol=1e-4, atol=1e-5):
        raise ConfigError(
            f"Loss {loss.name!r} asks for labelled, yet its values change with samples that are not: leave these out "
            f"of every comparison."
        )


def _check_pointwise(loss: Loss, probe: LossInputs) -> None:
    whole = _values(loss, probe)
    halves = torch.cat([_values(loss, probe.rows(0, BATCH // 2)), _values(loss, probe.rows(BATCH // 2, BATCH))])
    if torch.allclose(whole, halves, rtol=1e-4, atol=1e-5):
        return
    if not torch.equal(whole, _values(loss, probe)):
        raise ConfigError(
            f"Loss {loss.name!r} gives other values for the same inputs: leave randomness and running state out of it."
        )
    raise ConfigError(
        f"Loss {loss.name!r} depends on the other samples of the batch: its values change when the batch is split. "
        f"Register it with relational=True."
    )

"""Probes: small batches on which a loss is tried before it enters the library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.lossbank.library.contract import Loss, LossInputs

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
            if loss.relational:
                _finite_gradients(loss, probe.rows(0, 1), " in a batch of one sample")
                alike = replace(probe, targets=probe.targets[:1].expand_as(probe.targets).clone())
                _finite_gradients(loss, alike, " in a batch where all targets are the same")
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
        values = loss(**vars(probe))
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
    inputs = [leaf.requires_grad_() for leaf in (probe.logits, probe.features) if leaf is not None]
    values = _values(loss, probe)
    received = torch.autograd.grad(values.sum(), inputs, allow_unused=True) if values.requires_grad else ()
    gradients = [gradient for gradient in received if gradient is not None]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in [values, *gradients]):
        raise ConfigError(f"Loss {loss.name!r} is not finite, or its gradient is not, on ordinary logits{where}.")
    return gradients


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

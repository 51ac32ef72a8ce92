"""The arithmetic of the two towers: all members of the ensemble at once, parameters as a dict of plain tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]

SIDES = ("context", "loss")
REACH = 5.0
"""How many deviations an input may be from the mean: beyond, the towers have seen nothing."""


@dataclass(frozen=True)
class Shape:
    """Sizes of an ensemble: contexts (C,), loss vectors (E,), ``members`` M, ``hidden`` H units, ``joint`` space m.

    The first ``always`` entries of a loss vector are known of every loss; the rest only of losses that have run.
    """

    context: int
    loss: int
    always: int
    members: int
    hidden: int
    joint: int

    def inputs(self, side: str) -> int:
        """The size of what the tower of ``side`` reads."""
        return self.context if side == "context" else self.loss


def fresh(shape: Shape, seed: int) -> State:
    """Parameters that differ from member to member, and inputs that are taken as they come."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {"scale": torch.ones(shape.members), "error": torch.ones(()), "fitted": torch.zeros(())}
    for side in SIDES:
        inputs = shape.inputs(side)
        first = torch.randn(shape.members, inputs, shape.hidden, generator=generator) / inputs**0.5
        last = torch.randn(shape.members, shape.hidden, shape.joint + 1, generator=generator) / shape.hidden**0.5
        last[..., -1] *= 0.1  # the bias of the tower starts near 0
        state |= {
            f"{side}_mean": torch.zeros(inputs),
            f"{side}_scale": torch.zeros(inputs),
            f"{side}_first": first,
            f"{side}_shift": torch.zeros(shape.members, 1, shape.hidden),
            f"{side}_last": last,
        }
    return state


TRAINED = ("scale", *(f"{side}_{part}" for side in SIDES for part in ("first", "shift", "last")))


def standardised(state: State, side: str, inputs: Tensor) -> Tensor:
    """``inputs`` (..., n) in deviations from the mean, held to +-5."""
    return ((inputs - state[f"{side}_mean"]) * state[f"{side}_scale"]).clamp(-REACH, REACH)


def restandardise(state: State, side: str, inputs: Tensor, *, jointly: bool) -> None:
    """Take mean and deviation of ``inputs`` (n, size) as the new standard; the first layer makes up for it.

    What the tower computes stays the same, but for the hold at +-5: a fit goes on from where it was. ``jointly``: one
    deviation for all entries, whose proportions have a meaning.
    """
    wide = inputs.double()
    mean, spread = wide.mean(dim=0), wide.std(dim=0, correction=0)
    varied = spread > 1e-6 * wide.abs().amax(dim=0)
    if jointly:
        spread = spread.square().mean().sqrt().expand_as(spread)
        varied = spread > 1e-9
    before, old_mean = state[f"{side}_scale"].double(), state[f"{side}_mean"].double()
    # An entry that does not vary now keeps the unit it had; one that never varied is not read.
    scale = torch.where(varied, 1 / spread.clamp(min=1e-12), before)
    first = state[f"{side}_first"].double()
    shift = ((mean - old_mean) * before)[None, None, :] @ first
    # What it begins to read in a later fit must not change what it says.
    ratio = torch.where(before > 0, before / scale.clamp(min=1e-300), 1.0 - state["fitted"].double())
    state[f"{side}_shift"] = (state[f"{side}_shift"].double() + shift).float()
    state[f"{side}_first"] = (first * ratio[None, :, None]).float()
    state[f"{side}_mean"], state[f"{side}_scale"] = mean.float(), scale.float()


def tower(state: State, side: str, standard: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (M, n, m) and biases (M, n) of standardised inputs (n, size) or (M, n, size)."""
    members = len(state["scale"])
    rows = standard.expand(members, *standard.shape[-2:])
    hidden = torch.tanh(torch.baddbmm(state[f"{side}_shift"], rows, state[f"{side}_first"]))
    out = torch.bmm(hidden, state[f"{side}_last"])
    return torch.nn.functional.normalize(out[..., :-1], dim=-1, eps=1e-6), out[..., -1]


def joined(state: State, contexts: tuple[Tensor, Tensor], losses: tuple[Tensor, Tensor]) -> Tensor:
    """Predictions (M, n) for n pairs of tower outputs."""
    return state["scale"][:, None] * (contexts[0] * losses[0]).sum(dim=-1) + contexts[1] + losses[1]

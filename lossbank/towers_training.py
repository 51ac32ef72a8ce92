"""How the two towers learn from a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbank.memory import Memory
from lossbank.towers_net import TRAINED, Shape, State, joined, restandardise, standardised, tower
from lossrag import ConfigError

_BATCH = 384
_RATE = 0.01
_DECAY = 0.02
_HIDDEN_SHARE = 0.5
"""How often what a loss only gets by running is hidden."""

_NOISE = 0.3
"""Of a loss vector, in its deviations: what makes losses alike that are near, the unseen ones among them."""

_EVERY = 20
_FEWEST = 8
_HELD_OUT = 7


@dataclass(frozen=True)
class Triples:
    """n records: contexts (n, C), positions ``loss`` (n,) in the vectors (L, E), contributions (n,); moments (n,)."""

    contexts: Tensor
    loss: Tensor
    contributions: Tensor
    moment: Tensor
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def read(cls, memory: Memory, vectors: Mapping[str, Tensor], shape: Shape) -> Triples:
        """The records of ``memory`` whose loss has a vector (E,). Raises ConfigError for another size."""
        if memory.context_size != shape.context:
            raise ConfigError(
                f"The towers read contexts of {shape.context} numbers, the memory's have {memory.context_size}."
            )
        records = memory.records
        known = [name for name in records.losses if name in vectors]
        for name in known:
            if tuple(vectors[name].shape) != (shape.loss,):
                raise ConfigError(
                    f"A loss vector of these towers is ({shape.loss},), {name!r} has {vectors[name].shape}."
                )
        place = {name: position for position, name in enumerate(known)}
        position = torch.tensor([place.get(name, -1) for name in records.losses], dtype=torch.long)
        loss = position[torch.from_numpy(records.loss).long()] if len(records) else position[:0]
        rows = loss >= 0
        steps = torch.from_numpy(records.step)
        # Held out by moment: records of one moment share their context.
        moment = (
            torch.from_numpy(records.task).long() * 1_000_003 + torch.from_numpy(records.run).long() * 10_007 + steps
        )
        return cls(
            torch.from_numpy(records.context)[rows],
            loss[rows],
            torch.from_numpy(records.contribution)[rows].clamp(-1, 1),
            moment[rows],
            torch.stack([vectors[name].float().cpu() for name in known]) if known else torch.empty(0, shape.loss),
        )


def train(
    state: State, shape: Shape, triples: Triples, *, steps: int, seed: int
) -> tuple[State, float, float, int, int]:
    """The best state on the way, its R^2 and correlation on the held-out triples, their number, and its step."""
    generator = torch.Generator().manual_seed(seed)
    rows, held_out = _split(triples, generator)
    checked = len(held_out) >= _FEWEST
    held_out = held_out if checked else rows
    state = dict(state)
    first = not bool(state["fitted"])
    restandardise(state, "context", triples.contexts[rows], jointly=False)
    restandardise(state, "loss", triples.vectors, jointly=True)
    parameters = {name: state[name].detach().clone().requires_grad_() for name in TRAINED}
    state |= parameters
    # Decay on the weights, not on scale and shifts.
    groups = [
        {"params": [p for name, p in parameters.items() if name.endswith(("first", "last"))], "weight_decay": _DECAY},
        {"params": [p for name, p in parameters.items() if not name.endswith(("first", "last"))], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=_RATE)
    contexts = standardised(state, "context", triples.contexts)
    vectors = standardised(state, "loss", triples.vectors)
    unknown = _without_history(state, triples.vectors, shape)
    best = (
        (float("inf"), 0, {}) if first else (_error(state, contexts, vectors, triples, held_out), 0, _copy(parameters))
    )
    batch = (shape.members, min(_BATCH, max(len(rows), 1)))
    for step in range(1, steps + 1):
        with torch.enable_grad():
            pick = rows[torch.randint(len(rows), batch, generator=generator)]
            hide = torch.rand(shape.members, len(vectors), 1, generator=generator) < _HIDDEN_SHARE
            noise = _NOISE * torch.randn(shape.members, *vectors.shape, generator=generator)
            losses = tower(state, "loss", torch.where(hide, unknown, vectors) + noise)
            members = torch.arange(shape.members)[:, None]
            chosen = losses[0][members, triples.loss[pick]], losses[1][members, triples.loss[pick]]
            guess = joined(state, tower(state, "context", contexts[pick]), chosen)
            error = (guess - triples.contributions[pick]).square().mean(dim=1).sum()
            gradients = torch.autograd.grad(error, list(parameters.values()))
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        for group in optimiser.param_groups:
            group["lr"] = _RATE * (1 - 0.9 * step / steps)
        optimiser.step()
        if step % _EVERY == 0 or step == steps:
            found = _error(state, contexts, vectors, triples, held_out)
            if found <= best[0]:
                best = (found, step, _copy(parameters))
    state |= best[2] or _copy(parameters)
    state["fitted"] = torch.ones(()) if steps or not first else state["fitted"]
    guess, truth = _predictions(state, contexts, vectors, triples, held_out), triples.contributions[held_out]
    # Unchecked predictions are as uncertain as if they explained nothing.
    state["error"] = ((guess - truth) if checked else truth).square().mean().sqrt().clamp(max=1.0)
    r2, correlation = _quality(guess, truth) if checked else (float("nan"), float("nan"))
    return state, r2, correlation, len(held_out) if checked else 0, best[1]


def _split(triples: Triples, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows held out; with few moments all and none."""
    moments, which = torch.unique(triples.moment, return_inverse=True)
    out = torch.randperm(len(moments), generator=generator)[which] < len(moments) // _HELD_OUT
    everything = torch.arange(len(triples))
    if int(out.sum()) < _FEWEST:
        return everything, everything[:0]
    return everything[~out], everything[out]


def _without_history(state: State, vectors: Tensor, shape: Shape) -> Tensor:
    bare = vectors.clone()
    bare[:, shape.always :] = 0.0
    return standardised(state, "loss", bare)


@torch.no_grad()
def _predictions(state: State, contexts: Tensor, vectors: Tensor, triples: Triples, rows: Tensor) -> Tensor:
    losses = tower(state, "loss", vectors)
    which = triples.loss[rows]
    return joined(state, tower(state, "context", contexts[rows]), (losses[0][:, which], losses[1][:, which])).mean(
        dim=0
    )


def _error(state: State, contexts: Tensor, vectors: Tensor, triples: Triples, rows: Tensor) -> float:
    guess = _predictions(state, contexts, vectors, triples, rows)
    return float((guess - triples.contributions[rows]).square().mean())


def _quality(guess: Tensor, truth: Tensor) -> tuple[float, float]:
    left, total = (guess - truth).square().sum(), (truth - truth.mean()).square().sum()
    pair = torch.stack([guess - guess.mean(), truth - truth.mean()])
    norms = pair.norm(dim=1).prod()
    return float(1 - left / total.clamp(min=1e-12)), float(pair.prod(dim=0).sum() / norms.clamp(min=1e-12))


def _copy(parameters: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}

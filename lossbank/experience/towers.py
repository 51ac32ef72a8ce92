"""Two towers, one for contexts and one for losses, whose inner product predicts what a loss contributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.errors import BankError, ConfigError
from lossrag.lossbank.experience.embedding import GEOMETRY_SIZE
from lossrag.lossbank.experience.memory import Memory

State = dict[str, Tensor]

SIDES = ("context", "loss")
REACH = 5.0
"""Deviations that an input may be from the mean: beyond, the towers have seen nothing."""


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


_BATCH = 384
_RATE = 0.01
_DECAY = 0.02
_HIDDEN_SHARE = 0.5
"""Share of the draws in which what a loss only gets by running is hidden."""

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


def train(state: State, shape: Shape, triples: Triples, *, steps: int, seed: int) -> tuple[State, FitReport]:
    """The best state on the way, and the report on it."""
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
    bare = triples.vectors.clone()
    bare[:, shape.always :] = 0.0
    unknown = standardised(state, "loss", bare)
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
            held_out_error = _error(state, contexts, vectors, triples, held_out)
            if held_out_error <= best[0]:
                best = (held_out_error, step, _copy(parameters))
    state |= best[2] or _copy(parameters)
    state["fitted"] = torch.ones(()) if steps or not first else state["fitted"]
    guess, truth = _predictions(state, contexts, vectors, triples, held_out), triples.contributions[held_out]
    # Unchecked predictions are as uncertain as if they explained nothing.
    state["error"] = ((guess - truth) if checked else truth).square().mean().sqrt().clamp(max=1.0)
    r2, correlation = _quality(guess, truth) if checked else (float("nan"), float("nan"))
    return state, FitReport(r2, correlation, len(held_out) if checked else 0, steps, best[1])


def _split(triples: Triples, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows held out; with few moments all and none."""
    moments, which = torch.unique(triples.moment, return_inverse=True)
    out = torch.randperm(len(moments), generator=generator)[which] < len(moments) // _HELD_OUT
    everything = torch.arange(len(triples))
    if int(out.sum()) < _FEWEST:
        return everything, everything[:0]
    return everything[~out], everything[out]


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


@dataclass(frozen=True)
class FitReport:
    """Report on a fit: R^2 and correlation on ``held_out`` triples (NaN when there are fewer than 8), its steps.

    ``best_step`` is the step whose state was kept, 0 for the one before the fit.
    """

    r2: float
    correlation: float
    held_out: int
    steps: int
    best_step: int


class Towers:
    """An ensemble of M pairs of small networks: contexts (C,) and loss vectors (E,) to unit vectors (m,), and biases.

    A member predicts scale <context, loss> + bias(context) + bias(loss), clamped to [-1, 1]; the ensemble the mean.

    ``always``: how many leading entries of a loss vector every loss has (the geometry). The rest is hidden from the
    networks at random while they learn, so that they can do without it for a loss that nobody ever ran.

    Raises ConfigError for sizes out of range.

    >>> towers = Towers(2, 3, always=3)
    >>> towers.predict(torch.zeros(2), torch.zeros(5, 3))[1].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        context_size: int,
        loss_size: int,
        *,
        always: int = GEOMETRY_SIZE,
        members: int = 4,
        hidden: int = 32,
        joint: int = 12,
        seed: int = 0,
    ) -> None:
        sizes = {"context_size": context_size, "loss_size": loss_size, "always": always}
        for name, value in (sizes | {"members": members, "hidden": hidden, "joint": joint}).items():
            if value < 1:
                raise ConfigError(f"The {name} of towers is a whole number from 1 up, not {value!r}.")
        if always > loss_size:
            raise ConfigError(f"Of a loss vector of {loss_size} entries {always} cannot be known always: give fewer.")
        self.shape = Shape(context_size, loss_size, always, members, hidden, joint)
        self._state = fresh(self.shape, seed)

    @property
    def fitted(self) -> bool:
        """True after a first fit."""
        return bool(self._state["fitted"])

    def fit(self, memory: Memory, loss_vectors: Mapping[str, Tensor], *, steps: int = 200, seed: int = 0) -> FitReport:
        """Learn from the records of ``memory`` whose loss is among ``loss_vectors`` (E,); goes on from where it is.

        A seventh of the moments is held out, the same ones for the same records and ``seed``; of the states seen
        on the way (the one before included, unless this is the first fit) the one with the lowest error on them
        is kept. Equal arguments give equal bits on one machine. Without a record nothing changes.

        Raises ConfigError for vectors or contexts of another size, or negative steps.
        """
        if steps < 0:
            raise ConfigError(f"A fit takes 0 steps or more, got {steps}.")
        triples = Triples.read(memory, loss_vectors, self.shape)
        if not len(triples):
            return FitReport(float("nan"), float("nan"), 0, 0, 0)
        self._state, report = train(self._state, self.shape, triples, steps=steps, seed=seed)
        return report

    def predict(self, context: Tensor, loss_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Contributions of losses (L, E) to expect in ``context`` (C,): means (L,) in [-1, 1], uncertainties in [0, 1].

        The uncertainty is the root of the members' variance plus the squared error on held-out triples. Before the
        first fit the mean is 0 and the uncertainty 1. Raises ConfigError for other shapes.
        """
        self._check("context", tuple(context.shape), (self.shape.context,))
        self._check("loss vectors", tuple(loss_vectors.shape), (len(loss_vectors), self.shape.loss))
        if not self.fitted:
            return torch.zeros(len(loss_vectors)), torch.ones(len(loss_vectors))
        with torch.no_grad():
            members = joined(self._state, self.embed("context", context[None]), self.embed("loss", loss_vectors))
            variance = members.var(dim=0, correction=0) + self._state["error"].square()
            return members.mean(dim=0).clamp(-1, 1), variance.sqrt().clamp(max=1)

    @torch.no_grad()
    def embed(self, side: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (M, n, m) and biases (M, n) of ``inputs`` (n, size) on one side, "context" or "loss"."""
        if side not in SIDES:
            raise ConfigError(f"A tower is one of {SIDES}, got {side!r}.")
        self._check(f"{side} inputs", tuple(inputs.shape), (len(inputs), self.shape.inputs(side)))
        inputs = inputs.detach().to("cpu", torch.float32)
        return tower(self._state, side, standardised(self._state, side, inputs))

    def state_dict(self) -> State:
        """Everything that was learnt, as copies of plain float32 tensors."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take ``state`` over. Raises BankError, and changes nothing, unless it fits towers of these sizes."""
        if sorted(state) != sorted(self._state):
            raise BankError(f"The towers' state holds {sorted(state)}, expected {sorted(self._state)}: fit them anew.")
        for name, mine in self._state.items():
            given = state[name]
            if given.dtype != mine.dtype or given.shape != mine.shape or not bool(given.isfinite().all()):
                raise BankError(
                    f"The towers' {name} is {given.dtype} {tuple(given.shape)}, or not finite; expected {mine.dtype} "
                    f"{tuple(mine.shape)}: fit them anew, or build towers of the sizes they were saved with."
                )
        self._state = {name: state[name].detach().cpu().clone() for name in self._state}

    def _check(self, what: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if shape != expected:
            raise ConfigError(f"The {what} of these towers must be {expected}, got {shape}: embed them the same way.")

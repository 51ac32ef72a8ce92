"""Two towers, one for contexts and one for losses, whose inner product predicts what a loss contributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbank.embedding import GEOMETRY_SIZE
from lossbank.memory import Memory
from lossbank.towers_net import SIDES, Shape, State, fresh, standardised, tower
from lossbank.towers_training import Triples, train
from lossrag import BankError, ConfigError


@dataclass(frozen=True)
class FitReport:
    """How a fit went: R^2 and correlation on ``held_out`` triples (NaN when there are fewer than 8), its steps.

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
        """Whether a fit was ever made."""
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
        self._state, r2, correlation, held_out, best = train(self._state, self.shape, triples, steps=steps, seed=seed)
        return FitReport(r2, correlation, held_out, steps, best)

    def predict(self, context: Tensor, loss_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What losses (L, E) will contribute in ``context`` (C,): mean (L,) in [-1, 1] and uncertainty (L,) in [0, 1].

        The uncertainty is the root of the members' variance plus the squared error on held-out triples. Before the
        first fit the mean is 0 and the uncertainty 1. Raises ConfigError for other shapes.
        """
        self._check("context", tuple(context.shape), (self.shape.context,))
        self._check("loss vectors", tuple(loss_vectors.shape), (len(loss_vectors), self.shape.loss))
        if not self.fitted:
            return torch.zeros(len(loss_vectors)), torch.ones(len(loss_vectors))
        with torch.no_grad():
            point, lift = self.embed("context", context[None])
            vectors, bias = self.embed("loss", loss_vectors)
            each = self._state["scale"][:, None] * (point * vectors).sum(dim=-1) + lift + bias
            variance = each.var(dim=0, correction=0) + self._state["error"].square()
            return each.mean(dim=0).clamp(-1, 1), variance.sqrt().clamp(max=1)

    @torch.no_grad()
    def embed(self, side: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (M, n, m) and biases (M, n) of ``inputs`` (n, size) on one side, "context" or "loss"."""
        if side not in SIDES:
            raise ConfigError(f"A tower is one of {SIDES}, got {side!r}.")
        self._check(f"{side} inputs", tuple(inputs.shape), (len(inputs), self.shape.inputs(side)))
        inputs = inputs.detach().to("cpu", torch.float32)
        return tower(self._state, side, standardised(self._state, side, inputs))

    def query_vector(self, context: Tensor) -> Tensor:
        """Where to look for losses in ``context`` (C,): (D,), D = M (m + 1) + 1; see :meth:`key_vectors`."""
        point, _ = self.embed("context", context[None])
        return torch.cat([torch.cat([point[:, 0], torch.ones(len(point), 1)], dim=1).flatten(), torch.zeros(1)])

    def key_vectors(self, loss_vectors: Tensor) -> Tensor:
        """Unit vectors (L, D) whose order by cosine with a query is that of the predictions, bias included.

        The members' scaled vectors and biases stand side by side. Losses with longer ones would lose their lead
        to normalisation, so a last entry, which no query looks at, fills all up to the same length.
        """
        if not len(loss_vectors):
            return torch.empty(0, self.shape.members * (self.shape.joint + 1) + 1)
        vectors, bias = self.embed("loss", loss_vectors)
        rows = torch.cat([self._state["scale"][:, None, None] * vectors, bias[..., None]], dim=-1)
        rows = rows.transpose(0, 1).flatten(1).double()
        square = rows.square().sum(dim=1)
        longest = square.amax().clamp(min=1e-12)
        filled = torch.cat([rows, (longest - square).clamp(min=0).sqrt()[:, None]], dim=1)
        return (filled / longest.sqrt()).float()

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

    def _check(self, what: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise ConfigError(f"The {what} of these towers must be {expected}, got {found}: embed them the same way.")

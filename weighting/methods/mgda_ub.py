"""MGDA-UB: MGDA on an upper bound that needs no gradient of the encoder (Sener and Koltun, NeurIPS 2018, section 3.3).

Let Z be the representation that the heads read. The gradients of the shared parameters are those of Z times the
Jacobian of the encoder, so that |sum_t lambda_t dL_t/dtheta| <= |dZ/dtheta| |sum_t lambda_t dL_t/dZ|: minimise the
second factor over the simplex. All T gradients with respect to Z stop above the encoder, and one backward pass through
it, with their weighted sum, is all that the update needs (Algorithm 2): weighting/gradients/features.py does that.

What it means where each task has inputs of its own. The tasks' rows of Z are then different ones, their gradients
orthogonal whatever the tasks are about, and the bound knows nothing of conflicts: lambda_t is proportional to
1 / |dL_t/dZ|^2. ``align=mean`` compares the tasks in the space of the features instead, as implementations do that add
the gradients up over the rows: dL_t/dZ summed over its rows, (F,) per task, the gradient with respect to a shift of all
rows alike. The bound of the paper holds for ``align=rows`` only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lossrag.checks import check_choice
from lossrag.weighting.base import ALIGNMENTS, WEIGHTINGS, Needs, Signals, State
from lossrag.weighting.methods.mgda import MGDA


@WEIGHTINGS.register("mgda_ub")
@dataclass(frozen=True)
class MGDAUB(MGDA):
    """T lambda* (T,), lambda* of the shortest vector in the convex hull of the representation gradients.

    As in MGDA, task-specific parameters get their own task's gradient unweighted. Lambda is found exactly and not by
    the authors' Frank-Wolfe loop.

    normalization: as in MGDA, here of the representation gradients.
    align: ``rows`` compares them row by row of the representation, ``mean`` as their sums over the rows.

    The step needs ``representation=``, a function that gives the features. Raises ConfigError for unknown options.

    >>> import torch
    >>> method = MGDAUB()
    >>> state = method.init(2, torch.device("cpu"))
    >>> B = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    >>> weights, state = method.weigh(state, Signals(torch.ones(2), representation=B))
    >>> [round(weight, 4) for weight in weights.tolist()]
    [1.6, 0.4]
    """

    align: str = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "align", ALIGNMENTS)

    @property
    def needs(self) -> Needs:
        """The Gramian at the features; what lies below them alone is weighed."""
        return Needs(representation=self.align, applies_to="shared")

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T lambda* (T,); the state keeps the latest weights."""
        assert signals.representation is not None
        return super().weigh(state, replace(signals, gramian=signals.representation))

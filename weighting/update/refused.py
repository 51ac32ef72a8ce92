"""What a step refuses before it is made: methods that need what a kind of step has not got."""

from __future__ import annotations

from lossrag.errors import ConfigError
from lossrag.weighting.base import Needs
from lossrag.weighting.parallel.group import Group


def check_low(method: str, needs: Needs) -> None:
    """Raise ConfigError for what ``memory="low"`` has not got: it weighs before it knows the losses."""
    early = {
        "losses": needs.losses,
        "the Gramian": needs.gramian,
        "the representation": needs.representation,
        "scores": needs.scores,
    }
    reads = [what for what, wanted in early.items() if wanted]
    if reads:
        raise ConfigError(
            f"MultiTaskStep: {method} reads {', '.join(reads)} before the update, which memory='low' does not have by "
            "then: use memory='rows'."
        )
    if needs.applies_to == "shared":
        raise ConfigError(
            f"MultiTaskStep: {method} leaves the tasks' own parameters unweighted, which memory='low' cannot tell "
            "apart: use memory='rows'."
        )


def check_group(group: Group | None, method: str, needs: Needs, memory: str, sparse: bool) -> None:
    """Raise ConfigError for what processes do not do together."""
    if group is None:
        return
    alone = "leave group= out, or "
    if memory == "low":
        raise ConfigError(
            f"MultiTaskStep: memory='low' is of one process: {alone}take 'rows', of which each process holds T d / R."
        )
    if needs.representation is not None:
        raise ConfigError(
            f"MultiTaskStep: {method} compares gradients at the features, of which every process has others: {alone}"
            "take a method that compares them at the parameters, such as MGDA."
        )
    if sparse:
        raise ConfigError(
            f"MultiTaskStep: the sparse gradient of a table is not divided among processes: {alone}take sparse=True "
            "out of the optimiser's groups."
        )

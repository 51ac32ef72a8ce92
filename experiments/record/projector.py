"""TensorBoard's embedding projector: the losses by their geometry, and every task where its composition puts it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from lossrag.files import write_atomic
from lossrag.lossbank import LOSSES
from lossrag.lossbank.shape.geometry import geometry_vectors

CONFIG = """embeddings {
  tensor_name: "losses"
  tensor_path: "projector/vectors.tsv"
  metadata_path: "projector/metadata.tsv"
}
"""


def write_projector(folder: Path, kinds: Collection[str], shares: Mapping[str, Mapping[str, float]]) -> None:
    """Write the points into the ``folder`` of a TensorBoard run, in place of what is there.

    The losses for targets of these ``kinds``, then the tasks of ``shares`` (by task and loss), each at the mean of its
    losses' vectors. One file for the whole run, unlike ``SummaryWriter.add_embedding``, which adds a point set at every
    call and so twice after a resume.
    """
    losses = [loss for loss in LOSSES.values() if loss.target_kind in kinds]
    vectors = geometry_vectors(losses).double()
    place = {loss.name: row for row, loss in enumerate(losses)}
    rows, labels = vectors.tolist(), [(loss.name, loss.family, loss.target_kind) for loss in losses]
    for task, mixed in shares.items():
        known = {name: share for name, share in mixed.items() if name in place}
        total = sum(known.values())
        if total > 0:
            weights = torch.tensor(list(known.values()), dtype=torch.float64) / total
            rows.append((weights[:, None] * vectors[[place[name] for name in known]]).sum(dim=0).tolist())
            labels.append((f"task {task}", "task", losses[place[next(iter(known))]].target_kind))
    (folder / "projector").mkdir(parents=True, exist_ok=True)
    table = "\n".join("\t".join(f"{value:.6g}" for value in row) for row in rows)
    # several columns need a header, and the first one is what a point is labelled with
    described = "\n".join("\t".join(label) for label in [("name", "family", "targets"), *labels])
    write_atomic(folder / "projector" / "vectors.tsv", table.encode() + b"\n")
    write_atomic(folder / "projector" / "metadata.tsv", described.encode() + b"\n")
    write_atomic(folder / "projector_config.pbtxt", CONFIG.encode())

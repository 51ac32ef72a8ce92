"""Tensor files: plain safetensors that execute nothing, are written atomically and prove their content.

Of single flipped bits neither safetensors nor torch.load notices any, so a file's own metadata carry a sha256 over
every tensor and the rest of the metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lossrag.files import write_atomic


class DamagedFile(Exception):  # noqa: N818 - what it says, not what it is
    """A tensor file that cannot be read, is foreign or does not match its checksum; the text is the reason alone."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able metadata to ``path``, whole or not at all; raises OSError when it cannot."""
    # copies: safetensors refuses tensors that share memory
    on_cpu = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    write_atomic(path, save(on_cpu, metadata={"meta": text, "sha256": _digest(on_cpu, text)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and metadata of what :func:`save_tensors` wrote; raises DamagedFile for anything else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tensors(Path(folder, "a"), {"x": torch.ones(2)}, {"epoch": 3})
    ...     load_tensors(Path(folder, "a"))
    ({'x': tensor([1., 1.])}, {'epoch': 3})
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"it cannot be read ({error})") from None
    if "sha256" not in header or "meta" not in header:
        raise DamagedFile("it carries no checksum, so it is not of LossRAG")
    if _digest(tensors, header["meta"]) != header["sha256"]:
        raise DamagedFile("its content does not match its checksum")
    try:
        meta: dict[str, Any] = json.loads(header["meta"])
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"its metadata cannot be read ({error})") from None
    return tensors, meta


def digest_of(tensors: Mapping[str, Tensor], digest: hashlib._Hash | None = None) -> hashlib._Hash:
    """A sha256 object over names, dtypes, shapes and bytes of CPU ``tensors``; goes on from ``digest`` if given."""
    digest = hashlib.sha256() if digest is None else digest
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.reshape(-1)
        if flat.stride() != (1,):  # a single element that stands for many cannot be viewed as bytes
            flat = tensor.new_empty(tensor.numel()).copy_(flat)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    return digest_of(tensors, hashlib.sha256(text.encode())).hexdigest()

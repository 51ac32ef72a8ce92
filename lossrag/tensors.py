"""Tensor files: plain safetensors that execute nothing, are written atomically and prove their content.

Of single flipped bits neither safetensors nor torch.load notices any, so a file's own metadata carry a sha256 over
every tensor and the rest of the metadata.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lossrag.files import GIB, check_file, read_json, write_atomic
from lossrag.proof import DamagedFile
from lossrag.schema import Unfit, check_schema

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MOST = 64 * GIB
"""Bytes of a tensor file, which is read as a whole; no more than the machine has memory either."""


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
        check_file(path, min(MOST, _memory()))
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedFile(f"it cannot be read ({error})") from None
    if "sha256" not in header or "meta" not in header:
        raise DamagedFile("it carries no checksum, so it is not of LossRAG")
    if _digest(tensors, header["meta"]) != header["sha256"]:
        raise DamagedFile("its content does not match its checksum")
    try:
        meta: dict[str, Any] = json.loads(header["meta"])
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"its metadata cannot be read ({error})") from None
    if not isinstance(meta, dict):
        raise DamagedFile("its metadata are no mapping")
    return tensors, meta


def _memory() -> int:
    """Bytes of memory of this machine, where it says so."""
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    known = getattr(os, "sysconf_names", {})
    return math.prod(os.sysconf(name) for name in names) if all(name in known for name in names) else MOST


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that a Hugging Face model in ``folder`` is read from, all of them in that folder.

    Raises DamagedFile where it would be read from anything else: an index may name any file, a pickle among them, and
    a config.json or an adapter may name other weights.
    """
    if (folder / "adapter_config.json").exists():
        raise DamagedFile("adapter_config.json names weights that lie elsewhere: merge the adapter, and save that")
    try:
        if "transformers_weights" in read_json(folder / "config.json"):
            raise DamagedFile("config.json names other weights (transformers_weights): take that line out")
        if (folder / WEIGHTS).is_file():
            return [folder / WEIGHTS]
        if not (folder / INDEX).is_file():
            raise DamagedFile(f"it has neither {WEIGHTS} nor {INDEX}")
        index = read_json(folder / INDEX)
        check_schema(index, {"weight_map": {str: str}})
    except (OSError, Unfit) as error:
        raise DamagedFile(str(error)) from None
    names = sorted(set(index["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise DamagedFile(f"{INDEX} leads to {name!r:.80}, which is no file of safetensors in this folder")
    return [folder / name for name in names]


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

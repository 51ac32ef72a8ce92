"""Fixtures of every floor: a tiny encoder of the BERT family, presets composed once; Ctrl-C as on a terminal."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "car", "ball", "space", "gun", "disk", "it", "works", "fine", "bad", "play", "##ing", "##s", "."]


def pytest_configure(config):
    # a program in the background of a shell is started deaf to it, and so are its children
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def presets_composed_once(monkeypatch) -> None:
    """By Hydra, of those that ship; where its composition is the point, a module says otherwise."""
    from lossrag.experiments.config import compose  # other floors do without
    from tests.compositions import remembered

    monkeypatch.setattr(compose, "_compose", remembered)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """Its folder, to be read only: random weights, 16 wide, two layers, 24 positions; dropout is on."""
    import transformers  # as long as torch to import, and few tests need it

    folder = tmp_path_factory.mktemp("tiny-bert")
    options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(MARKS + WORDS), max_position_embeddings=24, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(MARKS + WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder

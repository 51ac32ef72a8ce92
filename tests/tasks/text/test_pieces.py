from __future__ import annotations

import json
import shutil

import pytest
import torch

import lossrag.tasks.text.newsgroups
import lossrag.tasks.text.suite
from lossrag import ConfigError, DataError
from lossrag.tasks import SPLITS, SUITES, NewsgroupsConfig
from lossrag.tasks.files.fetch import cache_folder
from lossrag.tasks.text.encoders import EncoderFiles, encoder_files
from lossrag.tasks.text.pieces import encode_pieces


@pytest.fixture
def encoder(tiny_bert) -> EncoderFiles:
    return encoder_files(str(tiny_bert))


def test_pieces_are_the_encoders_plus_one(encoder):
    inputs = encode_pieces(encoder, ["The car works playing.", "", "balls"], max_pieces=10)
    # [CLS] the car works play ##ing . [SEP]
    assert inputs.gather(torch.tensor([0])).tolist() == [[3, 6, 7, 13, 16, 17, 19, 4]]
    assert inputs.lengths.tolist() == [8, 2, 4]
    assert inputs.ids[8:].tolist() == [3, 4, 3, 8, 18, 4]


def test_a_text_is_cut_with_its_marks(encoder):
    inputs = encode_pieces(encoder, ["the car works fine . it works"], max_pieces=5)
    assert inputs.ids.tolist() == [3, 6, 7, 13, 4]
    assert len(encode_pieces(encoder, [], max_pieces=5)) == 0


@pytest.mark.parametrize("count", [2, 25])
def test_too_many_pieces_or_too_few(encoder, count):
    with pytest.raises(ConfigError, match=f"^max_tokens={count}: .* 3 to 24 word pieces"):
        encode_pieces(encoder, ["the car"], count)


def test_a_tokenizer_of_another_encoder(tiny_bert, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 5}))
    with pytest.raises(DataError, match="knows 19 word pieces, its encoder 5"):
        encode_pieces(encoder_files(str(folder)), ["the"], 8)


def test_newsgroups_in_pieces_have_the_same_split(world, encoder, monkeypatch):
    config = NewsgroupsConfig(root=str(world.root), rho=0.3, validation=0.2, max_tokens=12)
    entry = SUITES["newsgroups"]
    words = entry.load(config)
    monkeypatch.setattr(lossrag.tasks.text.suite, "glove", lambda *_: pytest.fail("word vectors were read"))
    suite = entry.in_pieces(config, encoder)
    for split in SPLITS:
        for a, b in zip(words.splits[split], suite.splits[split], strict=True):
            assert torch.equal(a.targets, b.targets)
            assert len(a.inputs) == len(b.inputs)
    first = suite.splits["support"][0].inputs
    assert first.ids[0] == 3
    assert int(first.lengths.max()) <= 12
    assert suite.vectors is None
    assert suite.encoder == encoder.folder
    assert f"at most 12 word pieces of {encoder.name} (sha256 {encoder.digest[:12]})" in suite.edition


def test_pieces_are_made_once(world, encoder, tiny_bert, tmp_path, monkeypatch):
    config = NewsgroupsConfig(root=str(world.root), rho=0.3, validation=0.2, max_tokens=12)
    first = lossrag.tasks.text.newsgroups.load_newsgroups(config, encoder)
    assert len(list((cache_folder() / "encoded").iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(lossrag.tasks.text.newsgroups, "_build", lambda *_: pytest.fail("tokenised again"))
        other_vectors = NewsgroupsConfig(
            root=str(world.root), rho=0.3, validation=0.2, max_tokens=12, dim=7, vectors="random"
        )
        again = lossrag.tasks.text.newsgroups.load_newsgroups(other_vectors, encoder)
    for split in SPLITS:
        for a, b in zip(first.splits[split], again.splits[split], strict=True):
            assert torch.equal(a.inputs.ids, b.inputs.ids)
    folder = tmp_path / "other"
    shutil.copytree(tiny_bert, folder)
    vocabulary = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text(vocabulary.replace("the", "re"))
    changed = lossrag.tasks.text.newsgroups.load_newsgroups(config, encoder_files(str(folder)))
    assert changed.edition != first.edition
    assert not torch.equal(changed.splits["test"][0].inputs.ids, first.splits["test"][0].inputs.ids)

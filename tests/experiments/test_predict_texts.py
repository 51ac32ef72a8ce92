"""Finished runs on texts in use: by words with their vectors, by the word pieces of a pre-trained encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lossrag import ConfigError, DataError, load_run
from lossrag.tasks.text.pieces import encode_pieces
from tests.experiments.tables import SMALL, people, read, same_scores, write


def texts_run(lossrag, tmp_path, *options: str) -> Path:
    """A run on the texts of a table, whose test rows are then in test.csv alone."""
    write(tmp_path / "train.csv", people(tmp_path / "train", 120, 0))
    write(tmp_path / "test.csv", people(tmp_path / "test", 40, 1))
    files = "tasks.data={train: train.csv, test: test.csv}"
    line = [files, "tasks.targets=[income,hours]", "tasks.text=said", "run.dir=run", *options]
    result = lossrag("train", "experiment=table", *SMALL, *line)
    assert result.code == 0, result
    (tmp_path / "train.csv").unlink()
    assert lossrag("evaluate", "run=run", "data=test.csv", "output=scores.json").code == 0
    return tmp_path / "run"


def test_texts(lossrag, tmp_path):
    options = ["model=textcnn", "tasks.vectors=random", "tasks.dim=8", "model.filters=4"]
    path = texts_run(lossrag, tmp_path, *options, "model.trainable_vectors=true")
    assert same_scores(path, json.loads((tmp_path / "scores.json").read_text()))
    run = load_run(path)
    texts = [row["said"] for row in read(tmp_path / "test.csv")]
    assert run.predict(texts).columns == run.predict(tmp_path / "test.csv").columns
    among, alone = run.predict(texts), [run.predict([text]) for text in texts]
    for t, task in enumerate(among.tasks):
        rows = np.concatenate([prediction.tasks[t].outputs for prediction in alone])
        assert np.allclose(task.outputs, rows, rtol=1e-5, atol=1e-6)
    assert run.predict(["xyzzy", "phd of them"]).notes == (
        "1 text has no word that training knew (the first: rows, row 1): nothing is known about it",
    )
    for data, said in (
        (["phd", ""], "rows, row 2, column 'said': no text here"),
        ([], "no rows to predict"),
        ([3], "Row 1 is 3"),
    ):
        with pytest.raises(DataError, match=said):
            run.predict(data)
    with pytest.raises(ConfigError, match=r"pathlib\.Path of a file"):
        run.predict("test.csv")


@pytest.mark.parametrize("frozen", [False, True])
def test_texts_in_word_pieces(lossrag, tmp_path, tiny_bert, frozen):
    encoder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    options = ["model=bert", f"model.encoder={encoder}", f"model.frozen={frozen}", "tasks.max_tokens=12"]
    path = texts_run(lossrag, tmp_path, *options)
    assert same_scores(path, json.loads((tmp_path / "scores.json").read_text()))
    (encoder / "vocab.txt").write_text((encoder / "vocab.txt").read_text() + "\nmore")
    with pytest.raises(DataError, match=r"is not the encoder that .* was trained with"):
        load_run(path)
    assert len(load_run(path, encoder=str(tiny_bert)).predict(["it works"])) == 1


@pytest.mark.parametrize("model", [pytest.param("textcnn", marks=pytest.mark.slow), "bert"])
def test_export_of_programs_that_read_words(lossrag, tmp_path, tiny_bert, model):
    small = ["tasks.vectors=random", "tasks.dim=8", "model.filters=4"]
    options = [f"model.encoder={tiny_bert}", "tasks.max_tokens=20"] if model == "bert" else small
    run = load_run(texts_run(lossrag, tmp_path, f"model={model}", *options))
    texts = [row["said"] for row in read(tmp_path / "test.csv")]
    if model == "bert":
        tokens = encode_pieces(run.encoder, texts, 20).gather(torch.arange(len(texts)))
    else:
        tokens = run.preprocessing.tokens([text.split() for text in texts]).gather(torch.arange(len(texts)))
    expected = [task.outputs for task in run.predict(texts).tasks]
    assert lossrag("export", "run=run", "format=torch_export", "output=model.pt2").code == 0
    for outputs, own in zip(torch.export.load(tmp_path / "model.pt2").module()(tokens), expected, strict=True):
        assert np.allclose(outputs.numpy(), own, rtol=1e-4, atol=1e-5)
    assert lossrag("export", "run=run", "format=onnx", "output=model.onnx").code == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for outputs, own in zip(session.run(None, {"inputs": tokens.numpy()}), expected, strict=True):
        assert np.allclose(outputs, own, rtol=1e-5, atol=1e-5)
    many = tokens[:1].repeat(1500, 1)  # more than a block of a BERT, and another width
    (values, _) = session.run(None, {"inputs": torch.nn.functional.pad(many, (0, 2)).numpy()})
    assert values.shape == (1500, 2)

"""Tables in memory: runs on them are runs on files of the same content, known and resumed by the content."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lossrag import ConfigError, DataError, load_run, suite_from, train
from lossrag.experiments.train import Training
from tests.experiments.tables import people

SMALL = {"train": {"epochs": 2, "batch_size": 64}, "log": {"tensorboard": False}, "quiet": True}
TARGETS = {"income": {"metric": "f1"}, "hours": "regression", "place": {"columns": ["north", "east"]}}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "people.csv"
    people(path, 150, 0)
    return path


def results(run):
    """All that a run finds."""
    same = ("test_accuracy", "test_r2", "test_loss", "task_weights", "best_epoch", "validation_score_mean")
    return {key: run.summary[key] for key in same}


def test_a_frame_gives_what_its_file_gives(file, tmp_path):
    import datasets  # takes more than a second, and other tests do without

    options = {"targets": TARGETS, "ignore": ["said"], "categorical": ["school"]}
    root = {"root": tmp_path}
    by_file = train(experiment="table", tasks={"name": "table", "data": str(file), **options}, run=root, **SMALL)
    frame = pd.read_csv(file)
    by_frame = train(tasks=suite_from(frame, **options), run=root, **SMALL)
    by_dataset = train(tasks=suite_from(datasets.Dataset.from_pandas(frame), **options), run=root, **SMALL)
    assert results(by_file) == results(by_frame) == results(by_dataset)
    assert by_file.run_id != by_frame.run_id
    assert by_frame.path == by_dataset.path, "one content, one run"
    told = load_run(by_frame).predict(frame)
    assert told.columns == load_run(by_file).predict(Path(file)).columns


def test_parts_and_own_rows_by_frame(file, tmp_path):
    frame = pd.read_csv(file)
    parts = {"train": frame[:110], "test": frame[110:]}
    for part, rows in parts.items():
        rows.to_csv(tmp_path / f"{part}.csv", index=False)
    names = {part: f"{tmp_path}/{part}.csv" for part in parts}

    def targets(data):
        return {"income": {"where": {"school": "hs"}}, "hours": {"data": data}}

    own = {"name": "table", "data": names, "targets": targets(names), "ignore": ["said"]}
    by_file = train(experiment="table", tasks=own, run={"root": tmp_path}, **SMALL)
    suite = suite_from(parts, targets(parts), ignore=["said"])
    assert len(suite.tables) == 2, "a frame that is named twice is held once"
    assert results(train(tasks=suite, run={"root": tmp_path}, **SMALL)) == results(by_file)


@pytest.mark.slow
def test_texts_by_frame(file, tmp_path):
    options = {"targets": ["income"], "text": "said", "vectors": "random", "dim": 8}
    model = {"name": "textcnn", "filters": 4}
    tasks = {"name": "table", "data": str(file), **options}
    by_file = train(experiment="table", tasks=tasks, model=model, run={"root": tmp_path}, **SMALL)
    suite = suite_from(pd.read_csv(file), **options)
    assert results(train(tasks=suite, model=model, run={"root": tmp_path}, **SMALL)) == results(by_file)


def test_content_decides(file, tmp_path, monkeypatch, lossrag):
    frame = pd.read_csv(file)[["age", "income", "hours"]]
    suite = suite_from(frame, targets=["income", "hours"])
    run = {"dir": tmp_path / "run"}

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tasks=suite, run=run, **SMALL)
    error = lossrag(
        "train", "experiment=table", f"tasks.data={suite.options['data']}", "tasks.targets=[income,hours]"
    ).error
    assert "was a table in memory" in error
    assert "suite_from(frame" in error
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
    frame.loc[0, "age"] = 999.0  # a copy was taken: this changes another table
    assert train(tasks=suite, run=run, **SMALL).path == tmp_path / "run"
    other = suite_from(frame, targets=["income", "hours"])
    assert other.options["data"] != suite.options["data"]
    with pytest.raises(Exception, match=r"tasks\.data: frame:"):
        train(tasks=other, run=run, **SMALL)
    reordered = suite_from(frame[["hours", "income", "age"]], targets=["income", "hours"])
    assert reordered.options["data"] != other.options["data"]


def test_mistakes_show_before_anything_is_trained(file):
    frame = pd.read_csv(file)
    for options, said in (
        ({"targets": ["income"], "textt": "said"}, "did you mean 'text'"),
        ({"targets": None}, "names no column to predict"),
        ({"targets": {"income": {"kind": "class"}}}, r"targets\.income\.kind"),
        ({"targets": ["income"], "validation": 0.9, "test": 0.5}, "leave nothing to train on"),
    ):
        with pytest.raises(ConfigError, match=said):
            suite_from(frame, **options)
    with pytest.raises(ConfigError, match="names no file of a table"):
        suite_from([1, 2], targets=["income"])
    with pytest.raises(ConfigError, match=r"data\.test takes the name of a file"):
        suite_from({"train": frame, "test": 3}, targets=["income"])
    with pytest.raises(DataError, match="no column 'incom'"):
        train(tasks=suite_from(frame, targets=["incom"]), **SMALL)
    with pytest.raises(DataError, match="no rows"):
        suite_from(frame[:0], targets=["income"])

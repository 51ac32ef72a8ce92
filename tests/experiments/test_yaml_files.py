"""YAML from outside: bounded before anything is made of it."""

from __future__ import annotations

import json

import pytest

from lossrag import ConfigError
from lossrag.experiments.bank.collect.plan import load_collect_plan
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.yaml_file import LONGEST, MOST_BYTES, parse_yaml, read_yaml
from lossrag.experiments.studies.plan import load_plan


def bomb(levels, width=9):
    """Ten lines that stand for ``width ** levels`` values."""
    lines = [f"a0: &a0 [{','.join('x' * width)}]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bomb(10), "more than 20,000 values"),
        (b"a: &a [*a]", "stands before, or inside"),
        (b"a: *b", "cannot be read"),
        (b"a: " + b"[" * 5000, "nested deeper"),
        (b"[" * 50, "nested deeper"),
        (b"a: " + b"9" * (LONGEST + 1), "characters"),
        (b"a: 1\na: 2", "cannot be read"),
        (b"a: !!python/object/apply:os.system [touch canary]", "cannot be read"),
        (b"? [1, 2]\n: 3", r"cannot be read|names are texts"),
        (b"- 1", "must hold names with values"),
        (b"1: 2", "names are texts"),
        (b"\xff\xfe", "cannot be read"),
        (b"a: \x01", "cannot be read"),
    ],
)
def test_refused_in_one_line(content, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_yaml(content, "It")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_what_is_read():
    """As OmegaConf reads it; anchors within measure are fine."""
    assert parse_yaml(b"a: &x [1, 1e-3]\nb: *x\nc: ${a}\n", "It") == {"a": [1, 0.001], "b": [1, 0.001], "c": "${a}"}
    assert parse_yaml(bomb(3), "It").keys() == {"a0", "a1", "a2"}


def test_files(tmp_path):
    with pytest.raises(ConfigError, match=r"The plan .* is not there"):
        read_yaml(tmp_path / "absent.yaml", "The plan")
    with pytest.raises(ConfigError, match="a folder, no file"):
        read_yaml(tmp_path, "The plan")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="more than the 262,144 bytes"):
        read_yaml(tmp_path / "large.yaml", "The plan")


METHODS = {"experiments": ["digits"], "seeds": [0], "methods": {"uniform": []}}
TUNED = {"seed": 1, "runs": 1, "learning_rates": [0.1], "learning_rates_without_knobs": [0.1]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tuning": 1}, "plan p: tuning must hold keys with values, got 1"),
        ({"tuning": [1]}, "plan p: tuning must hold keys with values, got [1]"),
        ({"tuning": {**TUNED, "learning_rates": [{"a": 1}]}}, "tuning.learning_rates.0 must be a number, not a"),
        ({"methods": {"uniform": {"knobs": {"optimizer.lr": 5}}}}, "plan p: uniform.knobs.optimizer.lr: Value 5 (int)"),
        ({"methods": {"uniform": {"knobs": 5}}}, "plan p: uniform.knobs"),
        ({"methods": {"uniform": {"suites": {"digits": 0.5}}}}, "plan p: uniform.suites.digits: Value 0.5 (float)"),
        ({"methods": {"uniform": {"overrides": [["a"]]}}}, "plan p: uniform.overrides"),
        ({"methods": {"uniform": 5}}, "plan p: uniform.overrides must be a list of names, got 5"),
        ({"seeds": [{"a": 1}]}, "plan p.seeds.0 must be a whole number, not a dict"),
        ({"experiments": [["digits"]]}, "plan p.experiments"),
        ({"reference": "\ud800"}, "p.yaml cannot be read: "),
    ],
)
def test_plans_of_other_types(changed, said, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(json.dumps(METHODS | changed))
    with pytest.raises(ConfigError) as error:
        load_plan("compare", str(path))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sources": {"digits": []}}, "plan c: a.sources.digits must be a number, not a list"),
        ({"sources": ["digits"]}, "plan c: a"),
        ({"classes": {"a": 1}}, "plan c: a.classes must be a list of whole numbers"),
        ({"classes": [2, {"a": 1}]}, "plan c: a.classes.1 must be a whole number, not a dict"),
        ({"troubles": {"clean": None}}, "plan c: a.troubles.clean: "),
        ({"cases": 10**30}, "plan c: a.cases must be a whole number, not a number beyond 64 bits"),
    ],
)
def test_plans_of_collections_of_other_types(changed, said, tmp_path):
    part = {"cases": 2, "sources": {"digits": 1}, "troubles": {"clean": 1}}
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({"seed": 0, "stacked": {"a": part | changed}}))
    with pytest.raises(ConfigError) as error:
        load_collect_plan(str(path))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["++loss.regression={}", "loss.regression={}"], "loss.regression takes one name"),
        (["++train.epochs={}", "train.epochs={}"], "train.epochs"),
        (["++seed={}", "seed={}"], "seed must be a whole number"),
        (["loss.questions=[0.5,{a: 1}]"], "loss.questions.1 must be a number, not a dict"),
        (["loss.tasks={digit: [mae]}"], "loss.tasks.digit must be a text, not a list"),
    ],
)
def test_values_of_other_types(line, said):
    with pytest.raises(ConfigError) as error:
        load_config(["experiment=digits", *line])
    assert said in str(error.value)

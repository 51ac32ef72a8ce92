"""YAML from outside: bounded before anything is made of it."""

from __future__ import annotations

import pytest

from lossrag import ConfigError
from lossrag.experiments.config.yaml_file import LONGEST, MOST_BYTES, parse_yaml, read_yaml


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

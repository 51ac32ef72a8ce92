from __future__ import annotations

import pytest

from lossrag import ConfigError, OptionError
from lossrag.tasks.corruption.settings import Corruption, parse_corruption


def test_parse():
    parsed = parse_corruption(
        {
            "TALK": {"imbalance": [1, 0.37, 0.14, 0.05]},
            "REC": {"noise": "symmetric", "rate": 0.4},
            "SCI": {"noise": "asymmetric", "rate": 0.2, "transition": {"a": 1}},
            "COMP": {
                "noise": "asymmetric",
                "transition": [[1, 0], [0.5, 0.5]],
                "imbalance": "exponential",
                "factor": 5,
            },
        }
    )
    assert list(parsed) == ["COMP", "REC", "SCI", "TALK"]
    assert parsed["REC"] == Corruption("symmetric", 0.4)
    assert parsed["TALK"] == Corruption(imbalance=(1.0, 0.37, 0.14, 0.05))
    assert parsed["SCI"] == Corruption("asymmetric", 0.2, flips=(("a", 1),))
    assert parsed["COMP"].matrix == ((1.0, 0.0), (0.5, 0.5))
    assert parsed["COMP"].describe() == "exponential imbalance 5 : 1, asymmetric noise by a matrix"
    assert len({*parsed.values()}) == 4
    assert parse_corruption({}) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "set noise or imbalance"),
        ("symmetric", "expected fields"),
        ({"nose": "pair"}, r"unknown field 'nose': did you mean 'noise'"),
        ({"noise": "symetric", "rate": 0.1}, "did you mean 'symmetric'"),
        ({"noise": 3, "rate": 0.1}, "noise=3 is unknown"),
        ({"noise": "pair"}, "between 0 and 1, got None"),
        ({"noise": "pair", "rate": 1.1}, r"between 0 and 1, got 1\.1"),
        ({"noise": "pair", "rate": -0.1}, "between 0 and 1"),
        ({"noise": "pair", "rate": float("nan")}, "between 0 and 1"),
        ({"noise": "pair", "rate": "much"}, "rate takes numbers, got 'much'"),
        ({"noise": "pair", "rate": True}, "rate takes numbers"),
        ({"rate": 0.1, "imbalance": [1, 1]}, "rate belongs to a noise"),
        ({"noise": "pair", "rate": 0.1, "transition": {0: 1}}, "belongs to noise=asymmetric, not to pair"),
        ({"noise": "asymmetric", "rate": 0.1}, "takes a transition"),
        ({"noise": "asymmetric", "transition": {0: 1}}, "between 0 and 1, got None"),
        ({"noise": "asymmetric", "rate": 0.1, "transition": [[1, 0], [0, 1]]}, "has its own"),
        ({"noise": "asymmetric", "transition": [[1, 0]]}, "square, got 1 rows and one of 2"),
        ({"noise": "asymmetric", "transition": [[1, 0], [0.5, 0.6]]}, "sum to 1"),
        ({"noise": "asymmetric", "transition": [[1, 0], [-1, 2]]}, "sum to 1"),
        ({"noise": "asymmetric", "transition": [1, 0]}, "list with an entry for every class"),
        ({"noise": "asymmetric", "transition": []}, "list with an entry"),
        ({"noise": "asymmetric", "rate": 0.1, "transition": {0: 1.5}}, "name or a position"),
        ({"imbalance": [1, 0]}, "above 0 and up to 1"),
        ({"imbalance": [1, 1.5]}, "above 0 and up to 1"),
        ({"imbalance": [1, None]}, "a number for every class"),
        ({"imbalance": "linear"}, "imbalance, unless exponential, is a list"),
        ({"imbalance": [1, 0.5], "factor": 3}, "factor belongs to imbalance=exponential"),
        ({"imbalance": "exponential", "factor": 0.5}, r"1 or more, got 0\.5"),
        ({"imbalance": "exponential", "factor": float("inf")}, "1 or more"),
    ],
)
def test_parse_refuses_and_names_the_task(fields, message):
    with pytest.raises(ConfigError, match=rf"^Corruption of REC: .*{message}"):
        parse_corruption({"REC": fields})


def test_an_object_names_its_class():
    with pytest.raises(OptionError, match=r"^Corruption: rate is the share"):
        Corruption("pair", 2.0)


def test_parse_refuses_what_is_no_mapping():
    with pytest.raises(ConfigError, match="is a mapping of tasks"):
        parse_corruption(["REC"])

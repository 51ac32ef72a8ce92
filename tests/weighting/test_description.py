"""Descriptions of methods: plain values, and differences in words."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lossrag.weighting import EPO, WEIGHTINGS, MetaWeighting, ParetoMTL, Uncertainty, Weighting
from lossrag.weighting.state.description import describe, difference


@dataclass(frozen=True)
class Mine(Weighting):
    width: tuple[int, int] = (1, 2)


def test_every_method_by_its_name_and_in_plain_values():
    for name, cls in WEIGHTINGS.items():
        described = describe(cls(weights=[1.0]) if name == "fixed" else cls())
        assert described["method"] == name
        assert json.loads(json.dumps(described)) == described


def test_a_class_of_ones_own():
    assert describe(Mine()) == {"method": f"{__name__}.Mine", "options": {"width": [1, 2]}}


def test_lists_are_copies():
    method = EPO([1.0, 2.0])
    describe(method)["options"]["preference"].append(3.0)
    assert method.preference == [1.0, 2.0]


def test_differences():
    one = describe(MetaWeighting())
    assert difference(one, describe(MetaWeighting())) == ""
    assert difference(one, describe(MetaWeighting(alpha=0.5, solver="paper"))) == (
        "alpha is 0.1 there, 0.5 here; solver is 'exact' there, 'paper' here"
    )
    assert difference(one, describe(Uncertainty())) == "the method is 'metaweighting' there, 'uncertainty' here"
    assert difference({"method": "m", "options": {"a": None}}, {"method": "m", "options": {}}) == (
        "a is None there, no option here"
    )


def test_in_another_order_of_tasks():
    saved = describe(ParetoMTL([1.0, 2.0, 3.0]))
    assert difference(saved, describe(ParetoMTL([3.0, 1.0, 2.0]).among([1, 2, 0], 3))) == ""

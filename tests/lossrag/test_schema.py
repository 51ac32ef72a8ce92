"""Schemas of plain values: what fits, and what is said of what does not."""

from __future__ import annotations

import pytest

from lossrag.schema import COUNT, FINITE, SHARE, OneOf, Unfit, Within, check_schema, fits


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (FINITE, [0, -1.5, 1e308], [True, float("nan"), float("inf"), 10**400, 2**63, "1", None, [1]]),
        (COUNT, [0, 7], [-1, 0.0, 1.0, True, "0", 2**63]),
        (SHARE, [0, 0.5, 1], [-0.1, 1.1, float("nan"), False]),
        (Within(1, 2, whole=True), [1, 2], [0, 3, 1.5]),
        (OneOf(("a", "b")), ["a"], ["c", "", None, ["a"]]),
        (str, ["", "jürgen", "\U0001f600", "nul\0"], ["\ud800", "a\udcff", 1, None, b"x"]),
        ({str: int}, [{}, {"a": 1}], [{1: 1}, {"\ud800": 1}, {"a": True}, [], "a"]),
        ([([COUNT], None)], [[], [None, [1]]], [[1], [[-1]], {}, "[]"]),
        ({"a": str, "b?": float}, [{"a": ""}, {"a": "", "b": 1, "c": object()}], [{}, {"b": 1}, {"a": "", "b": None}]),
        (object, [None, float("nan"), [], "\ud800"], []),
    ],
)
def test_what_fits(schema, good, bad):
    assert [value for value in good if not fits(value, schema)] == []
    assert [value for value in bad if fits(value, schema)] == []


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, "a.b.1 must be a whole number, not 'x'"),
        ({"a": -1}, {"a": Within(0, 4, whole=True)}, "a must be a whole number from 0 to 4, not -1"),
        ({"a": float("inf")}, {"a": FINITE}, "a must be a finite number, not inf"),
        ({"a": 10**400}, {"a": (FINITE, None)}, "a must be a finite number or nothing, not a number beyond 64 bits"),
        ({"a": [0, None]}, {"a": ([int], None)}, "a.1 must be a whole number, not None"),
        ({"a": "z"}, {"a": OneOf(("x", "y"))}, "a must be one of x, y, not 'z'"),
        ({"a": "\ud800"}, {"a": str}, "a must be a text, not '\\\\ud800'"),
        ({}, {"a": str}, "a is missing"),
        ([1], {"a": str}, "it must be a mapping, not a list"),
    ],
)
def test_what_is_said(value, schema, said):
    with pytest.raises(Unfit, match=f"^{said}$"):
        check_schema(value, schema)

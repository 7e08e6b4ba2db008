from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.errors import InvalidFilter
from tarragon.filters import (
    And,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    Where,
    has_where,
    matches,
    parse,
    parse_datetime,
    parse_path,
    relaxed,
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, And(())),
        ({"a": "x"}, In(("a",), ("x",))),
        ({"a": True}, In(("a",), (True,))),
        ({"a": 1.5}, In(("a",), (1.5,))),
        ({"a": {"$eq": 0}}, In(("a",), (0,))),
        ({"a": {"$ne": ""}}, Not(In(("a",), ("",)))),
        ({"a": {"$in": ["x", 1]}}, In(("a",), ("x", 1))),
        ({"a": {"$in": []}}, In(("a",), ())),
        ({"a": {"$nin": ("x",)}}, Not(In(("a",), ("x",)))),
        ({"a": {"$exists": True}}, Exists(("a",))),
        ({"a": {"$exists": False}}, Not(Exists(("a",)))),
        ({"a": {"$gte": 1, "$lt": 2.5}}, Range(("a",), gte=1.0, lt=2.5)),
        ({"a": {"$gt": "2024-01-31"}}, Range(("a",), gt=utc(2024, 1, 31))),
        ({"a": {"$gt": "2024-01-31", "$lte": "2024-02-01T01:00:00+01:00"}},
         Range(("a",), gt=utc(2024, 1, 31), lte=utc(2024, 2, 1))),
        ({"a": {"$ne": 1, "$gt": 0}}, And((Not(In(("a",), (1,))), Range(("a",), gt=0.0)))),
        ({"a": 1, "b": 2}, And((In(("a",), (1,)), In(("b",), (2,))))),
        ({"$and": [{"a": 1}]}, And((In(("a",), (1,)),))),
        ({"$or": [{"a": 1}, {}]}, Or((In(("a",), (1,)), And(())))),
        ({"$not": {"a": 1}}, Not(In(("a",), (1,)))),
        ({"$not": {"$not": {}}}, Not(Not(And(())))),
    ],
)  # fmt: skip
def test_parse(spec: dict[str, Any], expected: object) -> None:
    assert parse(spec) == expected


def test_number_ranges_become_doubles() -> None:
    parsed = parse({"a": {"$gte": 1}})
    assert isinstance(parsed, Range)
    assert isinstance(parsed.gte, float)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a", ("a",)),
        ("a.b.c", ("a", "b", "c")),
        ('"a.b"', ("a.b",)),
        ('x."a.b".y', ("x", "a.b", "y")),
        ('"[0]"', ("[0]",)),
        ('"$and"', ("$and",)),
        ("with space.ünïcode-日本", ("with space", "ünïcode-日本")),
        ("a.$b", ("a", "$b")),
        (" ", (" ",)),
    ],
)
def test_paths(key: str, path: tuple[str, ...]) -> None:
    assert parse_path(key) == path


@pytest.mark.parametrize(
    "key",
    ["", ".", "a.", ".a", "a..b", '"a', 'a"', '""', '"a"b', 'a"b"', "a[0]", "a[]", "]", "a\\b", '"a\\b"', "a\ud800"],
)
def test_malformed_keys(key: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_path(key)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ([{"a": 1}], "not list"),
        ("a", "not str"),
        (None, "not NoneType"),
        ({"$gte": 1}, "unknown operator '$gte'"),
        ({"$nor": [{}]}, "unknown operator '$nor'"),
        ({1: "a"}, "unknown operator 1"),
        ({"a": {"$regex": "x"}}, "unknown operator '$regex' for 'a'"),
        ({"a": {"b": 1}}, "unknown operator 'b' for 'a'"),
        ({"a": {"$gte": 1, "gt": 0}}, "unknown operator 'gt'"),
        ({"a": {}}, "no operator for 'a'"),
        ({"a": None}, "$exists"),
        ({"a": {"$eq": None}}, "$exists"),
        ({"a": {"$in": ["x", None]}}, "$exists"),
        ({"a": ["x"]}, "compared with list"),
        ({"a": {"$eq": {"b": 1}}}, "compared with dict"),
        ({"a": {"$in": [["x"]]}}, "compared with list"),
        ({"a": {"$in": "xyz"}}, "take a list"),
        ({"a": {"$in": {"x": 1}}}, "take a list"),
        ({"a": {"$nin": 1}}, "take a list"),
        ({"a": float("nan")}, "float nan"),
        ({"a": 2**63}, "64 bits"),
        ({"a": {"$in": [-(2**63) - 1]}}, "64 bits"),
        ({"a": "\udfff"}, "surrogate"),
        ({"a": {"$exists": 1}}, "true or false, not 1"),
        ({"a": {"$exists": None}}, "true or false, not None"),
        ({"a": {"$gte": True}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$gte": None}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$gte": float("nan")}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$gte": [1]}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$gte": "tomorrow"}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$gte": "2024-01-01", "$lt": "2024-13-01"}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$gte": "2024-01-01", "$lt": 5}}, "takes numbers or ISO 8601 dates"),
        ({"a": {"$lt": 10**400}}, "too large"),
        ({"$and": []}, "at least one filter"),
        ({"$or": []}, "at least one filter"),
        ({"$or": {"a": 1}}, "at least one filter"),
        ({"$and": "ab"}, "at least one filter"),
        ({"$and": [1]}, "not int"),
        ({"$not": [{"a": 1}]}, "not list"),
        ({"$not": None}, "not NoneType"),
        ({"$or": [{"a": 1}, {"$not": {"b": {"$foo": 1}}}]}, "'$foo'"),
    ],
)
def test_what_cannot_be_parsed_is_refused(spec: Any, said: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(spec)
    assert said in str(caught.value)


YES, NO = True, False


@pytest.mark.parametrize(
    ("spec", "metadata", "expected"),
    [
        # equality
        ({"a": "x"}, {"a": "x"}, YES),
        ({"a": "x"}, {"a": "X"}, NO),
        ({"a": ""}, {"a": ""}, YES),
        ({"a": "x"}, {}, NO),
        ({"a": "x"}, {"a": None}, NO),
        ({"a": "x"}, {"a": ["y", "x"]}, YES),
        ({"a": "x"}, {"a": []}, NO),
        ({"a": "x"}, {"a": [["x"]]}, NO),
        ({"a": "x"}, {"a": {"x": "x"}}, NO),
        ({"a": "é"}, {"a": "e\u0301"}, NO),
        # kinds are kept apart
        ({"a": 1}, {"a": True}, NO),
        ({"a": True}, {"a": 1}, NO),
        ({"a": False}, {"a": 0}, NO),
        ({"a": True}, {"a": True}, YES),
        ({"a": True}, {"a": [False, True]}, YES),
        ({"a": 1}, {"a": "1"}, NO),
        ({"a": "1"}, {"a": 1}, NO),
        ({"a": "True"}, {"a": True}, NO),
        # numbers
        ({"a": 1}, {"a": 1.0}, YES),
        ({"a": 1.0}, {"a": 1}, YES),
        ({"a": 1}, {"a": 1.5}, NO),
        ({"a": 0}, {"a": -0.0}, YES),
        ({"a": 2**53}, {"a": 2**53}, YES),
        ({"a": 2**53}, {"a": 2**53 + 1}, NO),
        ({"a": 2**53 + 1}, {"a": 2**53}, NO),
        ({"a": -(2**53)}, {"a": -(2**53) - 1}, NO),
        ({"a": 2**63 - 1}, {"a": 2**63 - 1}, YES),
        ({"a": 10**16}, {"a": 1e16}, NO),
        ({"a": 1e16}, {"a": 10**16}, YES),
        # $ne and $nin
        ({"a": {"$ne": "x"}}, {"a": "y"}, YES),
        ({"a": {"$ne": "x"}}, {}, YES),
        ({"a": {"$ne": "x"}}, {"a": ["x", "y"]}, NO),
        ({"a": {"$nin": ["x", 1]}}, {"a": 1}, NO),
        ({"a": {"$nin": ["x", 1]}}, {"a": True}, YES),
        ({"a": {"$nin": []}}, {"a": 1}, YES),
        ({"a": {"$in": []}}, {"a": 1}, NO),
        ({"a": {"$in": [1, "x"]}}, {"a": "x"}, YES),
        # ranges of numbers
        ({"year": {"$gte": 2020}}, {"year": 2021}, YES),
        ({"year": {"$gte": 2020}}, {"year": 2020}, YES),
        ({"year": {"$gt": 2020}}, {"year": 2020}, NO),
        ({"year": {"$gt": 2020}}, {"year": 2020.5}, YES),
        ({"year": {"$lte": 2020}}, {"year": 2020}, YES),
        ({"year": {"$lt": 2020}}, {"year": 2020}, NO),
        ({"year": {"$gte": 2020, "$lt": 2024}}, {"year": 2024}, NO),
        ({"year": {"$gte": 2020, "$lt": 2024}}, {"year": [2019, 2025]}, NO),
        ({"year": {"$gte": 2020, "$lt": 2024}}, {"year": [2019, 2022]}, YES),
        ({"year": {"$gte": 0}}, {"year": "2020"}, NO),
        ({"year": {"$gte": 0}}, {"year": True}, NO),
        ({"year": {"$gte": 0}}, {"year": None}, NO),
        ({"year": {"$gte": 0}}, {}, NO),
        ({"year": {"$lt": float("inf")}}, {"year": 1e300}, YES),
        # ranges of dates
        ({"at": {"$gte": "2024-01-31"}}, {"at": "2024-01-31"}, YES),
        ({"at": {"$gt": "2024-01-31"}}, {"at": "2024-01-31T00:00:01"}, YES),
        ({"at": {"$gt": "2024-01-31"}}, {"at": "2024-01-31T00:30:00+01:00"}, NO),
        ({"at": {"$lt": "2024-01-31T12:00:00+02:00"}}, {"at": "2024-01-31T10:00:00Z"}, NO),
        ({"at": {"$lte": "2024-01-31T12:00:00+02:00"}}, {"at": "2024-01-31 10:00"}, YES),
        ({"at": {"$gte": "2024-01-31"}}, {"at": ["2023-12-31", "2024-02-01"]}, YES),
        ({"at": {"$gte": "2024-01-31"}}, {"at": "soon"}, NO),
        ({"at": {"$gte": "2024-01-31"}}, {"at": 2025}, NO),
        ({"at": {"$gte": 0}}, {"at": "2024-01-31"}, NO),
        ({"at": {"$gte": "0001-01-01"}}, {"at": "0001-01-01T00:00:00+01:00"}, NO),
        # $exists
        ({"a": {"$exists": True}}, {"a": 0}, YES),
        ({"a": {"$exists": True}}, {"a": False}, YES),
        ({"a": {"$exists": True}}, {"a": ""}, YES),
        ({"a": {"$exists": True}}, {"a": {}}, YES),
        ({"a": {"$exists": True}}, {"a": [None]}, YES),
        ({"a": {"$exists": True}}, {"a": None}, NO),
        ({"a": {"$exists": True}}, {"a": []}, NO),
        ({"a": {"$exists": True}}, {}, NO),
        ({"a": {"$exists": False}}, {}, YES),
        ({"a.b": {"$exists": False}}, {"a": 1}, YES),
        # keys
        ({"a.b": 1}, {"a": {"b": 1}}, YES),
        ({"a.b": 1}, {"a.b": 1}, NO),
        ({'"a.b"': 1}, {"a.b": 1}, YES),
        ({'"a.b"': 1}, {"a": {"b": 1}}, NO),
        ({'x."a.b"': 1}, {"x": {"a.b": 1}}, YES),
        ({"a.b": 1}, {"a": [{"b": 1}]}, NO),
        ({"a.b": 1}, {"a": {"b": [2, 1]}}, YES),
        ({"a.b.c": 1}, {"a": {"b": 1}}, NO),
        # combinations
        ({}, {}, YES),
        ({"$not": {}}, {"a": 1}, NO),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, YES),
        ({"a": 1, "b": 2}, {"a": 1}, NO),
        ({"$or": [{"a": 1}, {"b": 2}]}, {"b": 2}, YES),
        ({"$or": [{"a": 1}, {"b": 2}]}, {"c": 3}, NO),
        ({"$and": [{"a": 1}, {"a": 2}]}, {"a": [1, 2]}, YES),
        ({"a": {"$gt": 1, "$ne": 3}}, {"a": 3}, NO),
        ({"a": {"$gt": 1, "$ne": 3}}, {"a": 2}, YES),
        ({"$not": {"a": 1, "b": 2}}, {"a": 1}, YES),
        ({"$not": {"a": {"$gte": 5}}}, {}, YES),
    ],
)  # fmt: skip
def test_matches(spec: dict[str, Any], metadata: dict[str, Any], expected: bool) -> None:
    assert matches(parse(spec), metadata) is expected


PLUS_ONE = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-02-29", utc(2024, 2, 29)),
        ("2024-01-31T10:20", utc(2024, 1, 31, 10, 20)),
        ("2024-01-31 10:20:30", utc(2024, 1, 31, 10, 20, 30)),
        ("2024-01-31T10:20:30Z", utc(2024, 1, 31, 10, 20, 30)),
        ("2024-01-31T10:20:30z", utc(2024, 1, 31, 10, 20, 30)),
        ("2024-01-31T10:20:30+01:00", datetime(2024, 1, 31, 10, 20, 30, tzinfo=PLUS_ONE)),
        ("2024-01-31 10:20:30+0100", datetime(2024, 1, 31, 10, 20, 30, tzinfo=PLUS_ONE)),
        ("2024-01-31 10:20:30+01", datetime(2024, 1, 31, 10, 20, 30, tzinfo=PLUS_ONE)),
        ("2024-01-31T10:20:30-05:30", utc(2024, 1, 31, 15, 50, 30)),
        ("2024-01-31T10:20:30.5", utc(2024, 1, 31, 10, 20, 30, 500_000)),
        ("2024-01-31T10:20:30.123456789+00:00", utc(2024, 1, 31, 10, 20, 30, 123_456)),
        ("2024-01-31T23:30:00-01:00", utc(2024, 2, 1, 0, 30)),
    ],
)
def test_dates(text: str, moment: datetime) -> None:
    parsed = parse_datetime(text)
    assert parsed == moment
    assert parsed is not None
    assert parsed.tzinfo is timezone.utc


@pytest.mark.parametrize(
    "text",
    [
        "", "2024", "2024-01", "20240131", "2024-1-31", "2023-02-29", "2024-01-31T", "2024-01-31T10",
        "2024-01-31T25:00",
        "2024-01-31T24:00:00", "2024-01-31T10:20Z", "2024-01-31Z", "2024-01-31T10:20:30.", "2024-01-31T10:20:30+1",
        "2024-01-31T10:20:30+01:", " 2024-01-31", "2024-01-31\n", "２０２４-01-31", "2024-01-31T10:20:30 Z",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
    ],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert parse_datetime(text) is None


# --- $where -----------------------------------------------------------------------------------------------------------
def is_odd(metadata: dict[str, Any]) -> bool:
    return metadata.get("n", 0) % 2 == 1


def test_a_function_of_the_metadata() -> None:
    parsed = parse({"a": 1, "$where": is_odd})
    assert parsed == And((In(("a",), (1,)), Where(is_odd)))
    assert [matches(parsed, {"a": 1, "n": n}) for n in range(4)] == [False, True, False, True]
    assert matches(parse({"$not": {"$where": is_odd}}), {"n": 2})
    assert matches(parse({"$where": lambda metadata: metadata.get("n")}), {"n": "truthy"}) is True


@pytest.mark.parametrize("wrong", [None, True, "metadata.n > 1", {"n": 1}])
def test_only_a_function_is_one(wrong: Any) -> None:
    with pytest.raises(InvalidFilter, match=r"\$where takes a function"):
        parse({"$where": wrong})


leaves = st.sampled_from([{"a": 1}, {"a": {"$ne": 1}}, {"b": {"$exists": True}}, {"$where": is_odd}])
specs = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=8,
)


def wheres(filter: Filter) -> int:
    if isinstance(filter, And | Or):
        return sum(map(wheres, filter.filters))
    return wheres(filter.filter) if isinstance(filter, Not) else isinstance(filter, Where)


@given(spec=specs)
def test_a_relaxed_filter_passes_all_that_the_filter_passes_and_an_engine_can_judge_it(spec: dict[str, Any]) -> None:
    filter_ = parse(spec)
    wider = relaxed(filter_)
    assert not wheres(wider)
    assert has_where(filter_) is bool(wheres(filter_))
    for n in (1, 2):
        for metadata in ({"n": n}, {"n": n, "a": 1}, {"n": n, "b": 0}, {"n": n, "a": 1, "b": 0}):
            assert matches(wider, metadata) or not matches(filter_, metadata)
            assert wheres(filter_) or matches(wider, metadata) is matches(filter_, metadata)

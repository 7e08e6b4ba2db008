"""Every operator and nesting of `MetadataFilters` against a brute-force evaluation of core's own semantics."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn
from llama_index.retrievers.tarragon import TarragonRetriever
from llama_index.retrievers.tarragon.filters import compile_filters, passes

from tarragon.errors import InvalidFilter
from tarragon.filters import matches, parse, relaxed
from tarragon.testing import WordEncoder

OP = FilterOperator
QUESTION = "the same words for all"

VALUES: list[Any] = [
    0, 1, 2, -1, 2020, 1.0, 0.5, 2**53, 2**53 + 1, True, False, None, "", "a", "A", "ab", "1", "true", "two words",
    [], ["a"], ["a", "b"], ["ab"], [1], [1, 2], [0.5], [True], ["a", 1], {}, {"a": 1}, {"b": "a"},
]  # fmt: skip
"""Of a key of the metadata; a missing key besides."""
SCALARS: list[Any] = [0, 1, 2, -1, 2020, 1.0, 0.5, 2**53, 2**53 + 1, "", "a", "A", "ab", "1", "two"]
LISTS: list[Any] = [[], ["a"], ["a", "b"], ["b", "x"], ["ab"], [1], [1, 2], [0, 5], [0.5], [2**53]]
TAKES: dict[FilterOperator, list[Any]] = {
    OP.EQ: [*SCALARS, *LISTS],
    OP.NE: [*SCALARS, *LISTS],
    OP.GT: SCALARS,
    OP.GTE: SCALARS,
    OP.LT: SCALARS,
    OP.LTE: SCALARS,
    OP.IN: LISTS,
    OP.NIN: LISTS,
    OP.ANY: LISTS,
    OP.ALL: LISTS,
    OP.CONTAINS: SCALARS,
    OP.TEXT_MATCH: ["", "a", "A", "b", "o w"],
    OP.TEXT_MATCH_INSENSITIVE: ["", "a", "A", "B", "WORDS"],
    OP.IS_EMPTY: [None],
}
KEYS = ["key", "a.b", "two words", 'quo"te', "back\\slash", "$in", "ü", "_node"]


def oracle(filters: MetadataFilters, metadata: dict[str, Any]) -> bool:
    """Core 0.14's semantics, written down from its source, without the errors on values that cannot be compared."""
    results = [
        oracle(one, metadata) if isinstance(one, MetadataFilters) else leaf(one, metadata) for one in filters.filters
    ]
    if not results:
        return True
    if filters.condition == "not":
        return True not in results
    return True in results if filters.condition == "or" else False not in results


def leaf(one: MetadataFilter, metadata: dict[str, Any]) -> bool:
    has, value = metadata.get(one.key), one.value
    if one.operator == "is_empty":
        return has in (None, "", []) and not isinstance(has, bool) and has != 0
    if has is None:
        return one.operator in ("!=", "nin")
    try:
        return {
            "==": lambda: has == value,
            "!=": lambda: has != value,
            ">": lambda: has > value,
            ">=": lambda: has >= value,
            "<": lambda: has < value,
            "<=": lambda: has <= value,
            "in": lambda: has in value,
            "nin": lambda: has not in value,
            "contains": lambda: value in has,
            "any": lambda: any(part in has for part in value),
            "all": lambda: all(part in has for part in value),
            "text_match": lambda: type(has) is str and value in has,
            "text_match_insensitive": lambda: type(has) is str and value.lower() in has.lower(),
        }[one.operator.value]()
    except TypeError:
        return False


def every_leaf(key: str = "key") -> Iterator[MetadataFilter]:
    for operator, values in TAKES.items():
        for value in values:
            yield MetadataFilter(key=key, operator=operator, value=value)


def every_metadata() -> list[dict[str, Any]]:
    return [{}, *({"key": value} for value in VALUES)]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TarragonRetriever]:
    """A document for each value, and some whose key needs care."""
    metadata = every_metadata() + [{key: value} for key in KEYS[1:-1] for value in ("a", 1, ["a"])]
    documents = [Document(text=QUESTION, id_=str(number), metadata=one) for number, one in enumerate(metadata)]
    path = tmp_path_factory.mktemp("filters") / "a.tarragon"
    with TarragonRetriever.from_documents(documents, path, encoder=WordEncoder(), similarity_top_k=500) as opened:
        yield opened


def found(retriever: TarragonRetriever, filters: MetadataFilters) -> set[str]:
    retriever.filters = filters
    return {str(one.node.ref_doc_id) for one in retriever.retrieve(QUESTION)}


def expected(retriever: TarragonRetriever, filters: MetadataFilters) -> set[str]:
    return {hit.document_id for hit in retriever.index.passages() if oracle(filters, dict(hit.metadata))}


def test_the_oracle_is_core_s_own_where_core_answers() -> None:
    """Of 0.14; 0.13 knows no missing key for NE and NIN, and reads TEXT_MATCH without case."""
    asked = agreed = 0
    for one in every_leaf():
        filters = MetadataFilters(filters=[one])
        for metadata in every_metadata():
            try:
                core = build_metadata_filter_fn(lambda _: metadata, filters)("")  # noqa: B023
            except (TypeError, AttributeError, ValueError):  # values that cannot be compared, operators unknown to 0.13
                continue
            asked += 1
            agreed += core == oracle(filters, metadata)
    from llama_index.core import __version__

    if __version__.startswith("0.13"):
        assert 0.97 < agreed / asked < 1
    else:
        assert agreed == asked > 3_000


@pytest.mark.parametrize("operator", list(FilterOperator), ids=lambda operator: operator.name)
def test_every_operator(retriever: TarragonRetriever, operator: FilterOperator) -> None:
    assert TAKES[operator], "every operator of core is here"
    some = False
    for value in TAKES[operator]:
        filters = MetadataFilters(filters=[MetadataFilter(key="key", operator=operator, value=value)])
        assert found(retriever, filters) == expected(retriever, filters), value
        some = some or 0 < len(expected(retriever, filters)) < retriever.index.status().documents
    assert some, "it makes a difference"


@pytest.mark.parametrize("key", KEYS)
def test_every_key(retriever: TarragonRetriever, key: str) -> None:
    for operator, value in ((OP.EQ, "a"), (OP.EQ, 1), (OP.IS_EMPTY, None), (OP.NE, "a"), (OP.CONTAINS, "a")):
        filters = MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)])
        assert found(retriever, filters) == expected(retriever, filters), (operator, value)


def nested(chance: random.Random, depth: int) -> MetadataFilters:
    leaves = LEAVES if depth else LEAVES[::7]
    parts: list[Any] = [chance.choice(leaves) for _ in range(chance.randint(0 if depth else 1, 3))]
    if depth:
        parts += [nested(chance, depth - 1) for _ in range(chance.randint(0, 2))]
    chance.shuffle(parts)
    return MetadataFilters(filters=parts, condition=chance.choice([*FilterCondition, None]))


LEAVES = [*every_leaf(), *every_leaf("other")]


@pytest.mark.parametrize("seed", range(60))
def test_every_nesting(retriever: TarragonRetriever, seed: int) -> None:
    filters = nested(random.Random(seed), seed % 4)
    assert found(retriever, filters) == expected(retriever, filters)


def test_what_the_engine_is_asked_is_never_narrower_than_what_passes() -> None:
    chance = random.Random(5)
    metadata = every_metadata() + [{"key": one, "other": other} for one in VALUES for other in (1, "a", ["a"])]
    narrowed = 0
    for _ in range(1_500):
        filters = nested(chance, chance.randint(0, 3))
        spec = compile_filters(filters)
        wider = relaxed(parse(spec)) if spec is not None else parse({})
        for one in metadata:
            assert passes(filters, one) is oracle(filters, one)
            assert matches(wider, one) or not oracle(filters, one)
            assert spec is None or matches(parse(spec), one) is oracle(filters, one)
            narrowed += not matches(wider, one)
    assert narrowed > 10_000, "and the engine has something to judge"


@pytest.mark.parametrize(
    ("operator", "value", "reason"),
    [
        (OP.EQ, None, "is_empty"),
        (OP.NE, None, "is_empty"),
        (OP.GT, ["a"], "not a list"),
        (OP.LTE, [1], "not a list"),
        (OP.IN, "abc", "takes a list"),
        (OP.NIN, 1, "takes a list"),
        (OP.ANY, "abc", "takes a list"),
        (OP.ALL, "abc", "takes a list"),
        (OP.CONTAINS, ["a"], "not a list"),
        (OP.TEXT_MATCH, 1, "takes a text"),
        (OP.TEXT_MATCH_INSENSITIVE, ["a"], "takes a text"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_unsupported_is_an_error_however_deep(
    retriever: TarragonRetriever, operator: FilterOperator, value: Any, reason: str
) -> None:
    one = MetadataFilter(key="key", operator=operator, value=value)
    for filters in (MetadataFilters(filters=[one]), MetadataFilters(filters=[MetadataFilters(filters=[one])])):
        with pytest.raises(InvalidFilter, match=reason):
            TarragonRetriever(retriever.index, filters=filters)
        with pytest.raises(InvalidFilter, match="'key'"):
            retriever.filters = filters


def test_a_filter_of_tarragon_s_own_language(retriever: TarragonRetriever) -> None:
    own = TarragonRetriever(retriever.index, filters={"key": {"$gte": 2020}}, similarity_top_k=50)
    values = [one.node.metadata["key"] for one in own.retrieve(QUESTION)]
    assert sorted(values) == [2020, 2**53, 2**53 + 1]

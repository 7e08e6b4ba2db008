"""What the server's ledger asks of a server, asked of the same engine in this process: it decides as it is used here.

A server is this engine (qdrant-edge) behind a network. That its conditions, modes and payload selectors mean what
`server_fence` and `server_ledger` take them to mean can so be shown without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as q
from hypothesis import given, settings
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc
from qdrant_client.http.models import QueryResponse
from test_edge_filters import allowed, documents, filters, store

from tarragon.filters import parse
from tarragon.protocols import DenseLeg, LexicalLeg, SearchRequest
from tarragon.recipe import Language
from tarragon.store.edge import EdgeStore, _text_index
from tarragon.store.server import ServerStore, text_index
from tarragon.store.server_client import ServerConnection
from tarragon.store.server_filters import compile_filter

__all__ = ["documents", "store"]  # fixtures

ONE, TWO = UUID(int=1), UUID(int=2)


class Records:
    """A collection of records as `server_fence` keeps them."""

    def __init__(self, path: Path) -> None:
        vectors = {"none": q.EdgeVectorParams(size=1, distance=q.Distance.Dot)}
        self.shard = q.EdgeShard.create(str(path), q.EdgeConfig(vectors=vectors))

    def upsert(self, mode: Any, condition: Any = None, **payloads: dict[str, Any]) -> None:
        ids = {"one": ONE, "two": TWO}
        points = [q.Point(ids[name], {"none": [0.0]}, payload) for name, payload in payloads.items()]
        self.shard.update(q.UpdateOperation.upsert_points(points, condition, mode))

    def read(self, id_: UUID, wanted: Any = True) -> Any:
        found = self.shard.retrieve([id_], wanted, False)
        return found[0].payload if found else None


def unchanged(stamps: list[str], fence: int) -> q.Filter:
    stamp = q.FieldCondition("stamp", match=q.MatchAny(stamps))
    return q.Filter(must=[stamp, q.FieldCondition("fence", range=q.RangeFloat(lte=float(fence)))])


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    path = tmp_path / "shard"
    path.mkdir()
    opened = Records(path)
    opened.upsert(q.UpdateMode.InsertOnly, one={"stamp": "s1", "fence": 2, "hint": "first"})
    yield opened
    opened.shard.close()


def test_an_insertion_never_replaces(records: Records) -> None:
    records.upsert(q.UpdateMode.InsertOnly, one={"hint": "late"}, two={"hint": "new"})
    assert records.read(ONE)["hint"] == "first"
    assert records.read(TWO)["hint"] == "new"


@pytest.mark.parametrize(
    ("stamps", "fence", "written"),
    [(["s1"], 2, True), (["s0", "s1"], 9, True), (["s0"], 2, False), ([], 2, False), (["s1"], 1, False)],
)
def test_an_update_needs_the_stamp_and_the_fence(
    records: Records, stamps: list[str], fence: int, written: bool
) -> None:
    records.upsert(q.UpdateMode.UpdateOnly, unchanged(stamps, fence), one={"hint": "new"}, two={"hint": "new"})
    assert records.read(ONE)["hint"] == ("new" if written else "first")
    assert records.read(TWO) is None, "what was deleted does not return by an update"


@pytest.mark.parametrize(("stamps", "fence", "gone"), [(["s1"], 2, True), (["s0"], 2, False), (["s1"], 1, False)])
def test_a_deletion_needs_them_too(records: Records, stamps: list[str], fence: int, gone: bool) -> None:
    condition = q.Filter(must=[q.HasIdCondition({ONE}), unchanged(stamps, fence)])
    records.shard.update(q.UpdateOperation.delete_points_by_filter(condition))
    assert (records.read(ONE) is None) == gone


def test_only_the_entries_asked_for_come_back(records: Records) -> None:
    served = {UUID(int=n << 120).hex: [n] for n in range(1, 200)}
    records.upsert(q.UpdateMode.Upsert, two={"stamp": "s2", "served": served, "members": list(served)})
    keys = [f"served.{key}" for key in (*list(served)[:3], "0123456789abcdef")]
    assert records.read(TWO, ["stamp", *keys]) == {"stamp": "s2", "served": dict(list(served.items())[:3])}


@pytest.mark.parametrize("indexed", [False, True])
def test_a_document_is_found_by_any_of_its_chunks(records: Records, indexed: bool) -> None:
    records.upsert(q.UpdateMode.Upsert, two={"members": ["a", "b"], "holders": {"a": "x"}})
    if indexed:
        records.shard.update(q.UpdateOperation.create_field_index("members", q.PayloadSchemaType.Keyword))
    any_ = q.Filter(must=[q.FieldCondition("members", match=q.MatchAny(["zz", "b"]))])
    found, _ = records.shard.scroll(q.ScrollRequest(filter=any_, limit=9, with_payload=False, with_vector=False))
    assert [record.id for record in found] == [TWO]
    one = q.Filter(must=[q.FieldCondition("members", match=q.MatchValue("a"))])
    queries = [q.QueryRequest(filter=one, limit=1, with_payload=["holders.a"])] * 2
    answers = records.shard.query_batch(q.QueryBatchRequest(queries))
    assert [[(point.id, point.payload) for point in points] for points in answers] == [
        [(TWO, {"holders": {"a": "x"}})]
    ] * 2


# --- filters ----------------------------------------------------------------------------------------------------------
def engine_filter(filter: models.Filter) -> q.Filter:
    """The server's filter, after JSON, as the engine's own object."""
    body = models.Filter.model_validate_json(filter.model_dump_json(exclude_none=True))
    parts = {name: [_condition(one) for one in getattr(body, name) or []] for name in ("must", "should", "must_not")}
    return q.Filter(**{name: conditions for name, conditions in parts.items() if conditions})


def _condition(condition: Any) -> Any:
    if isinstance(condition, models.Filter):
        return engine_filter(condition)
    if isinstance(condition, models.HasIdCondition):
        return q.HasIdCondition(set(condition.has_id))
    if isinstance(condition, models.IsEmptyCondition):
        return q.IsEmptyCondition(condition.is_empty.key)
    if condition.match is not None:
        value = condition.match.value
        return q.FieldCondition(
            condition.key, match=q.MatchValue(np.bool_(value) if isinstance(value, bool) else value)
        )
    bounds = condition.range.model_dump(exclude_none=True)
    if isinstance(condition.range, models.DatetimeRange):
        dates = {name: bound.isoformat() for name, bound in bounds.items()}
        return q.FieldCondition(condition.key, range=q.RangeDateTime(**dates))
    return q.FieldCondition(condition.key, range=q.RangeFloat(**bounds))


@settings(max_examples=200, deadline=None)
@given(spec=filters)
def test_a_filter_for_the_server_means_the_same_to_the_engine(
    store: EdgeStore, documents: dict[UUID, dict[str, Any]], spec: dict[str, Any]
) -> None:
    query = q.QueryRequest(limit=1_000, filter=engine_filter(compile_filter(parse(spec))))
    (points,) = store._shard.query_batch(q.QueryBatchRequest([query]))
    assert {point.id for point in points} == allowed(documents, spec)


@pytest.mark.parametrize("language", get_args(Language))
def test_words_are_indexed_alike(language: Language) -> None:
    ours, engine = text_index(language), _text_index(language)
    assert ours.tokenizer is not None
    assert ours.tokenizer.value == str(engine.tokenizer).rpartition(".")[2].lower()
    assert (ours.lowercase, ours.ascii_folding, ours.scoring) == (engine.lowercase, engine.ascii_folding, True)
    assert ours.enable_hnsw is engine.enable_hnsw is False
    assert (ours.stopwords is None) == (engine.stopwords is None) == (language == "neutral")
    assert (ours.stemmer is None) == (engine.stemmer is None)


# --- gRPC -------------------------------------------------------------------------------------------------------------
class Recorder:
    """Takes the place of a client and keeps what it was asked for."""

    def __init__(self) -> None:
        self.queries: list[models.QueryRequest] = []

    def query_batch_points(self, collection: str, requests: list[models.QueryRequest]) -> list[QueryResponse]:
        self.queries += requests
        return [QueryResponse(points=[]) for _ in requests]


def test_a_search_can_also_be_sent_by_grpc() -> None:
    recorder: Any = Recorder()
    searched = ServerStore(ServerConnection(recorder, "nowhere"), "handbook--v1", "d_space", guard=lambda: None)
    filter_ = parse({"$or": [{"a": {"$gte": "2024-01-01"}}, {"$not": {"b": {"$in": ["x", 1, True]}}}]})
    vector = np.ones(3, dtype=np.float32)
    searched.search(SearchRequest(DenseLeg(vector, 5), LexicalLeg("two words", 7), filter_))
    dense, lexical = (RestToGrpc.convert_query_request(query, "handbook--v1") for query in recorder.queries)
    assert isinstance(dense, grpc.QueryPoints)
    assert [(leg.using, leg.limit) for leg in dense.prefetch] == [("d_space", 5), ("content", 7)]
    assert dense.limit == 12
    assert lexical.query.text.query == "two words"
    assert lexical.filter == dense.prefetch[0].filter

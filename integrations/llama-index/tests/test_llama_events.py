"""What tracing tools are told: each model once, spans nested, callbacks fired, the receipt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_index.core.instrumentation as instrument
import pytest
from llama_index.core import Document
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.retrievers.tarragon import EncoderOfEmbedding, TarragonReceiptEvent, TarragonRetriever, document_of
from llama_index.retrievers.tarragon.events import is_watched

from tarragon import Index, RerankStep, SearchRecipe
from tarragon.protocols import RerankScores
from tarragon.testing import SparseWordEncoder, WordEncoder

QUESTION = "rotate the signing key"


class Shortest:
    """A reranker: the shorter, the better."""

    name = "shortest"
    identity = {"kind": "shortest"}  # noqa: RUF012

    def score(self, query: str, passages: Sequence[str], **_: Any) -> RerankScores:
        return RerankScores([-float(len(passage)) for passage in passages])


class Events(BaseEventHandler):
    seen: list[Any]

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.seen.append(event)


@pytest.fixture
def events() -> Iterator[Events]:
    dispatcher = instrument.get_dispatcher()
    handler = Events(seen=[])
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


@pytest.fixture
def spans() -> Iterator[SimpleSpanHandler]:
    dispatcher = instrument.get_dispatcher()
    handler = SimpleSpanHandler()
    dispatcher.add_span_handler(handler)
    yield handler
    dispatcher.span_handlers.remove(handler)


@pytest.fixture
def retriever(tmp_path: Path, documents: list[Document]) -> Iterator[TarragonRetriever]:
    """Over an index with a learned sparse space, with a reranker."""
    recipe = SearchRecipe(rerankers=(RerankStep(Shortest(), 4),))
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder(), sparse_encoder=SparseWordEncoder()) as index:
        index.sync(map(document_of, documents), progress=False)
        with TarragonRetriever(index, similarity_top_k=2, recipe=recipe) as opened:
            yield opened


def ask(retriever: TarragonRetriever, is_async: bool) -> Any:
    return asyncio.run(retriever.aretrieve(QUESTION)) if is_async else retriever.retrieve(QUESTION)


WAYS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@WAYS
def test_embedding_sparse_embedding_and_reranking_once_each(
    retriever: TarragonRetriever, events: Events, is_async: bool
) -> None:
    nodes = ask(retriever, is_async)
    assert [event.class_name() for event in events.seen] == [
        "RetrievalStartEvent",
        "EmbeddingStartEvent",
        "EmbeddingEndEvent",
        "SparseEmbeddingStartEvent",
        "SparseEmbeddingEndEvent",
        "ReRankStartEvent",
        "ReRankEndEvent",
        "TarragonReceiptEvent",
        "RetrievalEndEvent",
    ]
    by_name = {event.class_name(): event for event in events.seen}
    assert by_name["EmbeddingStartEvent"].model_dict["model_name"] == "words"
    assert by_name["EmbeddingEndEvent"].chunks == [QUESTION]
    assert by_name["EmbeddingEndEvent"].embeddings[0] == WordEncoder().encode_queries([QUESTION]).vectors[0].tolist()
    assert len(by_name["SparseEmbeddingEndEvent"].embeddings[0]) == 4, "a weight for each word"
    start, end = by_name["ReRankStartEvent"], by_name["ReRankEndEvent"]
    assert (start.model_name, start.top_n, len(start.nodes)) == ("shortest", 2, 4)
    assert [one.node.node_id for one in end.nodes][:2] == [one.node.node_id for one in nodes]
    assert [one.score for one in end.nodes][:2] == [one.score for one in nodes]


@WAYS
def test_spans_nest(retriever: TarragonRetriever, spans: SimpleSpanHandler, is_async: bool) -> None:
    ask(retriever, is_async)
    done = {span.id_.split("-")[0]: span for span in spans.completed_spans}
    assert not spans.open_spans
    outer, inner = ("aretrieve", "_aretrieve") if is_async else ("retrieve", "_retrieve")
    parents = {name: (span.parent_id or "").split("-")[0] for name, span in done.items()}
    assert parents == {
        f"TarragonRetriever.{outer}": "",
        f"TarragonRetriever.{inner}": f"TarragonRetriever.{outer}",
        "Stages.embedding": f"TarragonRetriever.{inner}",
        "Stages.reranking": f"TarragonRetriever.{inner}",
    }
    assert sum(span.id_.startswith("Stages.embedding") for span in spans.completed_spans) == 2
    assert all(span.duration > 0 for span in done.values())


@WAYS
def test_callbacks_fire(retriever: TarragonRetriever, is_async: bool) -> None:
    handler = LlamaDebugHandler(print_trace_on_end=False)
    watched = TarragonRetriever(
        retriever.index, similarity_top_k=2, recipe=retriever._recipe, callback_manager=CallbackManager([handler])
    )
    nodes = ask(watched, is_async)
    counts = {kind: len(handler.get_event_pairs(kind)) for kind in CBEventType}
    assert {kind: count for kind, count in counts.items() if count} == {
        CBEventType.RETRIEVE: 1,
        CBEventType.EMBEDDING: 2,
        CBEventType.RERANKING: 1,
    }
    start, end = handler.get_event_pairs(CBEventType.RERANKING)[0]
    assert start.payload[EventPayload.MODEL_NAME] == "shortest"
    assert [one.node.node_id for one in end.payload[EventPayload.NODES]][:2] == [one.node.node_id for one in nodes]
    dense = handler.get_event_pairs(CBEventType.EMBEDDING)[0][1]
    assert dense.payload[EventPayload.CHUNKS] == [QUESTION]


def test_nobody_listens_unless_somebody_does(request: pytest.FixtureRequest) -> None:
    assert not is_watched(CallbackManager())
    assert is_watched(CallbackManager([LlamaDebugHandler(print_trace_on_end=False)]))
    request.getfixturevalue("spans")
    assert is_watched(CallbackManager())


def test_being_watched_changes_nothing(retriever: TarragonRetriever, request: pytest.FixtureRequest) -> None:
    plain = ask(retriever, False)
    request.getfixturevalue("events")
    assert ask(retriever, False) == ask(retriever, True) == plain


def test_a_model_of_llama_index_emits_its_own_events(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "b.tarragon"
    encoder = EncoderOfEmbedding(MockEmbedding(8))
    with TarragonRetriever.from_documents([Document(text="words", id_="a")], path, encoder=encoder) as retriever:
        events.seen.clear()
        retriever.retrieve("words")
    names = [event.class_name() for event in events.seen]
    assert names.count("EmbeddingStartEvent") == names.count("EmbeddingEndEvent") == 1


def test_the_receipt_is_an_event(retriever: TarragonRetriever, events: Events) -> None:
    ask(retriever, False)
    (event,) = [one for one in events.seen if isinstance(one, TarragonReceiptEvent)]
    assert event.query == QUESTION
    assert [stage["name"] for stage in event.receipt["stages"]] == [
        "embed", "legs", "fuse", "serve", "rerank: shortest", "freshness",
    ]  # fmt: skip
    assert set(event.receipt["legs"]) == {"dense", "lexical", "sparse"}


def test_a_reranker_that_fails_drops_its_span_and_the_search_goes_on(
    retriever: TarragonRetriever, spans: SimpleSpanHandler, events: Events
) -> None:
    class Broken(Shortest):
        name = "broken"

        def score(self, query: str, passages: Sequence[str], **_: Any) -> RerankScores:
            raise RuntimeError("out of order")

    broken = TarragonRetriever(retriever.index, recipe=SearchRecipe(rerankers=(RerankStep(Broken()),)))
    assert len(broken.retrieve(QUESTION)) == 2
    assert [span.id_.split("-")[0] for span in spans.dropped_spans] == ["Stages.reranking"]
    (event,) = [one for one in events.seen if isinstance(one, TarragonReceiptEvent)]
    assert "out of order" in event.receipt["degraded"][0]

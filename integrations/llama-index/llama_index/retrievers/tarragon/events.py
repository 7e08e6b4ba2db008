"""What tracing tools are told: events, spans and callbacks for each model that a search runs, and its receipt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import llama_index.core.instrumentation as instrument
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.events.base import BaseEvent
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
    SparseEmbeddingEndEvent,
    SparseEmbeddingStartEvent,
)
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span_handlers import NullSpanHandler
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.retrievers.tarragon.embedding import TELLS_ITSELF

from tarragon.observing import RankedPassage
from tarragon.protocols import RerankScores
from tarragon.queries import QueryVector
from tarragon.types import FloatArray, SparseVector

V = TypeVar("V", bound="FloatArray | SparseVector")

dispatcher = instrument.get_dispatcher(__name__)


class TarragonReceiptEvent(BaseEvent):
    """How the nodes of a retrieval came to be.

    Attributes:
        query: As it was put.
        receipt: `tarragon.receipts.Receipt.to_dict`: stages with candidates and seconds, models, what was done without.
    """

    query: str
    receipt: dict[str, Any]

    @classmethod
    def class_name(cls) -> str:
        """For tools."""
        return "TarragonReceiptEvent"


def is_watched(callbacks: CallbackManager) -> bool:
    """Whether anybody listens."""
    if callbacks.handlers:
        return True
    place: Any = dispatcher
    while place is not None:
        handlers = [*place.event_handlers, *place.span_handlers]
        if not all(isinstance(one, NullEventHandler | NullSpanHandler) for one in handlers):
            return True
        place = place.parent if place.propagate else None
    return False


class Stages:
    """An observer of searches that tells LlamaIndex's tools of them: see `tarragon.observing.Observer`.

    Args:
        callbacks: Are told of the same.
        query: That is answered.
        top_k: Nodes wanted.
    """

    def __init__(self, callbacks: CallbackManager, query: QueryBundle, top_k: int) -> None:
        self._callbacks, self._query, self._top_k = callbacks, query, top_k

    @dispatcher.span
    def embedding(
        self, space: str, model: str, texts: Sequence[str], run: Callable[[], Sequence[QueryVector[V]]]
    ) -> Sequence[QueryVector[V]]:
        """See `tarragon.observing.Observer`. None for late interaction; LlamaIndex's own models emit theirs."""
        if space == "late" or model.startswith(TELLS_ITSELF):
            return run()
        start, end = _EVENTS[space]
        chunks, about = list(texts), {"model_name": model, "space": space}
        dispatcher.event(start(model_dict=about))
        with self._callbacks.event(CBEventType.EMBEDDING, payload={EventPayload.SERIALIZED: about}) as event:
            made = run()
            embeddings = [_plain(one.vector) for one in made]
            event.on_end(payload={EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: embeddings})
        dispatcher.event(end(chunks=chunks, embeddings=embeddings))
        return made

    @dispatcher.span
    def reranking(
        self, model: str, query: str, passages: Sequence[RankedPassage], run: Callable[[], RerankScores]
    ) -> RerankScores:
        """See `tarragon.observing.Observer`."""
        nodes = [_node(one.id, one.text, one.score) for one in passages]
        dispatcher.event(ReRankStartEvent(query=self._query, nodes=nodes, top_n=self._top_k, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self._top_k,
        }
        with self._callbacks.event(CBEventType.RERANKING, payload=payload) as event:
            scores = run()
            scored = [(one, score) for one, score in zip(passages, scores.scores, strict=True) if score is not None]
            scored.sort(key=lambda pair: -pair[1])  # sorted as a search sorts: equal ones stay as they were
            ranked = [_node(one.id, one.text, float(score)) for one, score in scored]
            event.on_end(payload={EventPayload.NODES: ranked})
        dispatcher.event(ReRankEndEvent(nodes=ranked))
        return scores


_EVENTS: dict[str, tuple[Any, Any]] = {
    "dense": (EmbeddingStartEvent, EmbeddingEndEvent),
    "sparse": (SparseEmbeddingStartEvent, SparseEmbeddingEndEvent),
}


def _plain(vector: Any) -> Any:
    if isinstance(vector, SparseVector):
        return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))
    return vector.tolist()


def _node(id_: UUID, text: str, score: float) -> NodeWithScore:
    return NodeWithScore(node=TextNode(id_=str(id_), text=text), score=score)

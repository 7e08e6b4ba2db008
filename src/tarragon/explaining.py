"""Why a document is not among the hits of a search: at which stage it was lost, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np

from tarragon.asking import Asker
from tarragon.filters import Filter, matches
from tarragon.protocols import DocumentRecord, LexicalLeg, OpenVersion, SearchRequest, SideSpace
from tarragon.recipe import SearchRecipe
from tarragon.searching import Found, search
from tarragon.serving import passes
from tarragon.session import Session
from tarragon.tracing import Trace
from tarragon.types import SparseVector


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Where a search loses a document.

    Attributes:
        document_id: The document.
        stage: ``found`` if it is among the hits; else ``index`` (it is not there), ``filter``, ``first pass``, ``legs``
            (none of its passages is a candidate), ``min_score``, ``fused``, ``late``, ``rerank`` or ``diversity``.
        sentence: What happened, with figures.
        rank: Of its best passage at that stage, from 1; None if it has none.
        score: The best passage's score at that stage.
        needed: The score at that stage that would have been enough.
        chunk_id: That passage.
    """

    document_id: str
    stage: str
    sentence: str
    rank: int | None = None
    score: float | None = None
    needed: float | None = None
    chunk_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Missed:
    """A document that is missed among the hits of a question.

    Attributes:
        query: The question.
        document_id: The document.
        k: Hits wanted.
        filter: On the documents' metadata.
        within: What may be told of.
    """

    query: str
    document_id: str
    k: int
    filter: Filter | None
    within: Filter | None


def why_not(session: Session, asker: Asker, missed: Missed, recipe: SearchRecipe | None) -> WhyNot:
    """See `tarragon.Index.why_not`."""
    with session.reading() as version:
        if (absent := _absent(missed, version)) is not None:
            return absent
        if not missed.query.strip() or missed.k == 0:
            return WhyNot(missed.document_id, "legs", "a blank query, or k=0, finds nothing")
        recipe = recipe or version.record.search_recipe()
        asked = asker.ask(version, [missed.query], recipe)[0]
        request, trace = asked.request(missed.k, missed.filter, recipe), Trace()
        steps = session.rerankers.steps(recipe.rerankers)
        found = search(
            version, request, missed.k, recipe, query=missed.query, spread=asked.spread, steps=steps, trace=trace
        )
        own = [chunk.id for chunk in version.ledger.chunks(missed.document_id)]
        case = _Case(version, missed, own, request, recipe, trace, found)
        return case.found() or case.filtered() or case.not_a_candidate() or case.outranked()


def _absent(missed: Missed, version: OpenVersion) -> WhyNot | None:
    """Not indexed, or not to be told of: which must look the same."""
    name = missed.document_id
    record: DocumentRecord | None = version.ledger.document(name)
    chunks = version.ledger.chunks(name)
    if missed.within is not None and not (chunks and passes(version, chunks[0].id, missed.within)):
        record = None
    if record is None:
        return WhyNot(name, "index", f"the index has no document {name!r}; sync its source")
    if record.state is None:
        return WhyNot(name, "index", f"{name} could not be indexed: {record.failure or record.status}")
    return None if chunks else WhyNot(name, "index", f"{name} has no text to search")


@dataclass(frozen=True, slots=True)
class _Case:
    """A search that was run, and the document that is looked for."""

    version: OpenVersion
    missed: Missed
    own: Sequence[UUID]
    request: SearchRequest
    recipe: SearchRecipe
    trace: Trace
    hits: Sequence[Found]

    @property
    def name(self) -> str:
        return self.missed.document_id

    def found(self) -> WhyNot | None:
        for rank, one in enumerate(self.hits, start=1):
            if one.hit.document_id == self.name:
                sentence = f"{self.name} is hit {rank} of {len(self.hits)}"
                return WhyNot(self.name, "found", sentence, rank, one.hit.score, None, one.hit.chunk_id)
        return None

    def filtered(self) -> WhyNot | None:
        payloads = self.version.store.payloads(self.own[:1])
        metadata: Mapping[str, Any] = next((payload["metadata"] for payload in payloads.values()), {})
        if self.missed.filter is None or matches(self.missed.filter, metadata):
            return None
        return WhyNot(self.name, "filter", f"the filter excludes {self.name}: its metadata is {metadata}")

    # --- legs ---------------------------------------------------------------------------------------------------------
    def not_a_candidate(self) -> WhyNot | None:
        """Lost in the legs: no passage reached the last candidate of any."""
        fused = self.trace.scores["fused"]
        if any(id_ in fused for id_ in self.own):
            return None
        lost = [self._lost_in(leg, scores) for leg, scores in self._exact().items() if scores]
        if not lost:
            return WhyNot(self.name, "legs", f"no passage of {self.name} has a word of the query")
        first = self.request.dense.first if self.request.dense is not None else None
        leg, id_, score, needed = lost[0]
        if leg == "dense" and first is not None and score > needed:
            sentence = (
                f"the first pass lost {self.name}: it scores {score:.4f} where the last candidate has {needed:.4f}. "
                "Search with first_pass=False, or tune the index again with a higher target_recall"
            )
            return WhyNot(self.name, "first pass", sentence, None, score, needed, str(id_))
        parts = [f"{leg} {score:.4f} where the last candidate has {needed:.4f}" for leg, _, score, needed in lost]
        sentence = (
            f"no passage of {self.name} is a candidate: {'; '.join(parts)}. A larger depth than {self.recipe.depth} "
            "looks further"
        )
        _, id_, score, needed = max(lost, key=lambda one: one[2] - one[3])
        return WhyNot(self.name, "legs", sentence, None, score, needed, str(id_))

    def _lost_in(self, leg: str, scores: Mapping[UUID, float]) -> tuple[str, UUID, float, float]:
        """The document's best passage in a leg, its score, and that of the last candidate that the leg gave."""
        id_, score = max(scores.items(), key=lambda entry: (entry[1], -entry[0].int))
        fused = self.trace.scores["fused"]
        given = sorted((value for one, value in self.trace.scores[leg].items() if one in fused), reverse=True)
        given = given[: getattr(self.request, leg).limit]
        return leg, id_, score, given[-1] if given else 0.0

    def _exact(self) -> dict[str, dict[UUID, float]]:
        """The true scores of the document's passages in each leg; without those that have nothing of the query."""
        request, store = self.request, self.version.store
        scores: dict[str, dict[UUID, float]] = {}
        if (dense := request.dense) is not None:
            vectors = store.vectors(self.own)
            scores["dense"] = {id_: float(np.dot(vector, dense.vector)) for id_, vector in vectors.items()}
        if (lexical := request.lexical) is not None:
            everything = LexicalLeg(lexical.text, max(1, store.count()))
            found = store.search(SearchRequest(lexical=everything)).lexical or {}
            scores["lexical"] = {id_: found[id_] for id_ in self.own if id_ in found}
        if (sparse := request.sparse) is not None:
            sides = store.sides(SideSpace(sparse.space, "sparse"), self.own)
            products = {
                id_: _product(row, sparse.vector) for id_, row in sides.items() if isinstance(row, SparseVector)
            }
            scores["sparse"] = {id_: product for id_, product in products.items() if product}
        return scores

    # --- rankings -----------------------------------------------------------------------------------------------------
    def outranked(self) -> WhyNot:
        """A candidate that something else was better than."""
        ranked = self.trace.scores
        stages = self.trace.ranking_stages
        places = {stage: place for stage in stages if (place := self._place(stage)) is not None}
        stage, (rank, id_) = list(places.items())[-1]
        score = ranked[stage][id_]
        least = self.recipe.min_score
        if least is not None and ranked["fused"].get(id_, least) < least:
            sentence = f"{self.name}: its best passage scores {score:.4f}, below min_score={least}"
            return WhyNot(self.name, "min_score", sentence, rank, score, least, str(id_))
        after = stages[stages.index(stage) + 1 :]
        if after:
            went_on = [value for one, value in ranked[stage].items() if one in ranked[after[0]]]
            needed, beyond = min(went_on, default=None), f"not among the {len(went_on)} that {after[0]!r} looked at"
        else:
            order = sorted(ranked[stage].values(), reverse=True)
            needed, beyond = order[min(self.missed.k, len(order)) - 1], f"beyond k={self.missed.k}"
            if rank <= self.missed.k:
                sentence = f"{self.name} is at rank {rank} before diversity chooses among the best"
                return WhyNot(self.name, "diversity", sentence, rank, score, needed, str(id_))
        short = f", {needed - score:.4f} short of the last hit" if needed is not None and not after else ""
        sentence = (
            f"{self.name}: its best passage is at rank {rank} of {len(ranked[stage])} in stage {stage!r}, {beyond}: it "
            f"scores {score:.4f}{short}"
        )
        kind = "rerank" if stage.startswith("rerank") else stage
        return WhyNot(self.name, kind, sentence, rank, score, needed, str(id_))

    def _place(self, stage: str) -> tuple[int, UUID] | None:
        """The document's best passage in a ranking, and its rank."""
        places = [(rank, id_) for id_ in self.own if (rank := self.trace.rank(stage, id_)) is not None]
        return min(places, key=lambda place: (place[0], place[1].int), default=None)


def _product(first: SparseVector, second: SparseVector) -> float:
    _, own, others = np.intersect1d(first.indices, second.indices, return_indices=True)
    return float(first.values[own] @ second.values[others])

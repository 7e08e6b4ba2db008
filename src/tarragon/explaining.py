"""Why a document is not among the hits of a search: at which stage it was lost, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np

from tarragon.asking import Asked, Asker
from tarragon.filters import Filter, matches
from tarragon.protocols import DocumentRecord, LexicalLeg, OpenVersion, SearchRequest
from tarragon.recipe import SearchRecipe
from tarragon.searching import Found, search
from tarragon.session import Session
from tarragon.tracing import Trace


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Where a search loses a document.

    Attributes:
        document_id: The document.
        stage: ``found`` if it is among the hits; else ``index`` (it is not there), ``filter``, ``first pass``,
            ``legs`` (none of its passages is a candidate), ``min_score``, ``fused``, ``late``, ``rerank``,
            ``per_document`` or ``diversity``.
        sentence: What happened, with figures.
        rank: Of its best passage at that stage, from 1; None if it has none.
        score: The best passage's score at that stage.
        needed: The score that would have been enough.
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


def why_not(
    session: Session,
    asker: Asker,
    query: str,
    document_id: str,
    k: int,
    filter: Filter | None,
    recipe: SearchRecipe | None,
) -> WhyNot:
    """See `tarragon.Index.why_not`."""
    with session.reading() as version:
        record = version.ledger.document(document_id)
        if (absent := _absent(document_id, record, version)) is not None:
            return absent
        if not query.strip() or k == 0:
            return WhyNot(document_id, "legs", "a blank query, or k=0, finds nothing")
        recipe = recipe or SearchRecipe(**version.record.tuning.get("search", {}))
        asked = asker.ask(version, [query], recipe)[0]
        trace = Trace()
        steps = session.rerankers.steps(recipe.rerankers)
        request = asked.request(k, filter, recipe)
        found = search(version, request, k, recipe, query=query, spread=asked.spread, steps=steps, trace=trace)
        own = [chunk.id for chunk in version.ledger.chunks(document_id)]
        case = _Case(version, document_id, own, asked, recipe, trace, found, k)
        return case.found() or case.filtered(filter) or case.not_a_candidate(request) or case.outranked()


def _absent(document_id: str, record: DocumentRecord | None, version: OpenVersion) -> WhyNot | None:
    if record is None:
        return WhyNot(document_id, "index", f"the index has no document {document_id!r}; sync its source")
    if record.state is None:
        return WhyNot(document_id, "index", f"{document_id} could not be indexed: {record.failure or record.status}")
    if not version.ledger.chunks(document_id):
        return WhyNot(document_id, "index", f"{document_id} has no text to search")
    return None


@dataclass(frozen=True, slots=True)
class _Case:
    """A search that was run, and the document that is looked for."""

    version: OpenVersion
    document_id: str
    own: Sequence[UUID]
    asked: Asked
    recipe: SearchRecipe
    trace: Trace
    hits: Sequence[Found]
    k: int

    def found(self) -> WhyNot | None:
        for rank, one in enumerate(self.hits, start=1):
            if one.hit.document_id == self.document_id:
                sentence = f"{self.document_id} is hit {rank} of {len(self.hits)}"
                return WhyNot(self.document_id, "found", sentence, rank, one.hit.score, None, one.hit.chunk_id)
        return None

    def filtered(self, filter: Filter | None) -> WhyNot | None:
        payloads = self.version.store.payloads(self.own[:1])
        metadata: Mapping[str, Any] = next((payload["metadata"] for payload in payloads.values()), {})
        if filter is None or matches(filter, metadata):
            return None
        return WhyNot(self.document_id, "filter", f"the filter excludes {self.document_id}: its metadata is {metadata}")

    # --- legs ---------------------------------------------------------------------------------------------------------
    def not_a_candidate(self, request: SearchRequest) -> WhyNot | None:
        """Lost in the legs: no passage reached the last candidate of any."""
        if any(id_ in scores for scores in self.trace.scores.values() for id_ in self.own):
            return None
        exact = self._exact(request)
        parts, best = [], None
        for leg, scores in exact.items():
            needed = self._last(leg, getattr(request, leg).limit)
            id_, score = max(scores.items(), key=lambda entry: (entry[1], -entry[0].int))
            parts.append(f"{leg} {score:.4f} where the last candidate has {needed:.4f}")
            if leg == "dense" and request.dense is not None and request.dense.first is not None and score > needed:
                sentence = (
                    f"the first pass lost {self.document_id}: its {parts[-1]}. Search with first_pass=False, or tune "
                    "the index again with a higher target_recall"
                )
                return WhyNot(self.document_id, "first pass", sentence, None, score, needed, str(id_))
            if best is None or score - needed > best[1] - best[2]:
                best = id_, score, needed
        if best is None:
            return WhyNot(self.document_id, "legs", f"no passage of {self.document_id} has a word of the query")
        sentence = (
            f"no passage of {self.document_id} is a candidate: {'; '.join(parts)}. A larger depth than "
            f"{self.recipe.depth} looks further"
        )
        return WhyNot(self.document_id, "legs", sentence, None, best[1], best[2], str(best[0]))

    def _exact(self, request: SearchRequest) -> dict[str, Mapping[UUID, float]]:
        """The true scores of the document's passages in the legs that can give them."""
        scores: dict[str, Mapping[UUID, float]] = {}
        if request.dense is not None:
            vectors = self.version.store.vectors(self.own)
            query = request.dense.vector
            scores["dense"] = {id_: float(np.dot(vector, query)) for id_, vector in vectors.items()}
        if request.lexical is not None:
            everything = LexicalLeg(self.asked.text, max(1, self.version.store.count()))
            found = self.version.store.search(SearchRequest(lexical=everything)).lexical or {}
            scores["lexical"] = {id_: found[id_] for id_ in self.own if id_ in found}
        return {leg: of_leg for leg, of_leg in scores.items() if of_leg}

    def _last(self, leg: str, limit: int) -> float:
        """The score of the last candidate that the leg itself gave."""
        scores = sorted(self.trace.scores.get(leg, {}).values(), reverse=True)[:limit]
        return scores[-1] if scores else 0.0

    # --- rankings -----------------------------------------------------------------------------------------------------
    def outranked(self) -> WhyNot:
        """A candidate that something else was better than."""
        stage, rank, id_ = self._best_place()
        score = self.trace.scores[stage][id_]
        last = self.hits[-1].hit.score if self.hits else None
        least = self.recipe.min_score
        if least is not None and self.trace.scores["fused"].get(id_, least) < least:
            sentence = f"its best passage scores {score:.4f}, below min_score={least}"
            return WhyNot(
                self.document_id, "min_score", f"{self.document_id}: {sentence}", rank, score, least, str(id_)
            )
        if rank <= self.k:
            name = "diversity" if self.recipe.diversity else "per_document"
            sentence = f"{self.document_id} is at rank {rank} before {name} chooses among the best"
            return WhyNot(self.document_id, name, sentence, rank, score, last, str(id_))
        short = f", {last - score:.4f} short of the last hit" if last is not None and last >= score else ""
        what = "rerank" if stage.startswith("rerank") else stage
        sentence = (
            f"its best passage is at rank {rank} of {len(self.trace.scores[stage])} in stage {stage!r}, beyond "
            f"k={self.k}: it scores {score:.4f}{short}"
        )
        return WhyNot(self.document_id, what, f"{self.document_id}: {sentence}", rank, score, last, str(id_))

    def _best_place(self) -> tuple[str, int, UUID]:
        """The last stage that ranked one of the document's passages, and the best of them there."""
        stages = [stage for stage in self.trace.scores if stage not in ("dense", "lexical", "sparse")]
        stages.sort(key=lambda stage: (stage.startswith("rerank"), stage == "late", stage == "fused"))
        for stage in reversed(stages):
            places = [(rank, id_) for id_ in self.own if (rank := self.trace.rank(stage, id_)) is not None]
            if places:
                rank, id_ = min(places, key=lambda place: (place[0], place[1].int))
                return stage, rank, id_
        raise AssertionError("a candidate has a rank in the fused stage")

"""Chunk id → the document that it is of, and its tokens: looked up once for all questions of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from uuid import UUID

from tarragon.evaluation.types import Ranked
from tarragon.index import Index
from tarragon.serving import PAGE, served_payloads


class Chunks:
    """What is known of chunks by their ids.

    Args:
        index: Where they are.
    """

    def __init__(self, index: Index) -> None:
        self._session = index._opened
        self._places: dict[str, Ranked | None] = {}
        self._tokens: dict[str, dict[str, int]] = {}
        self._of_texts: dict[str, int] = {}

    def learn(self, places: Iterable[Ranked]) -> None:
        """What hits say of their chunks."""
        self._places |= {place.chunk_id: place for place in places}

    def look_up(self, chunk_ids: Iterable[str]) -> None:
        """Find out what is not known yet. Of a chunk that is not served any more, nothing is."""
        missing = iter(list(dict.fromkeys(id_ for id_ in chunk_ids if id_ not in self._places)))
        with self._session.reading() as version:
            while page := [UUID(id_) for id_ in islice(missing, PAGE)]:
                payloads = served_payloads(version, page)
                for id_ in page:
                    at = payloads.get(id_)
                    place = None if at is None else Ranked(at["document_id"], 0.0, str(id_), at["start"], at["end"])
                    self._places[str(id_)] = place

    def places(self, chunk_ids: Iterable[str]) -> tuple[Ranked, ...]:
        """Those that are known and served, in this order."""
        return tuple(place for id_ in chunk_ids if (place := self._places.get(id_)) is not None)

    def tokens(self, chunk_ids: Iterable[str]) -> int:
        """Of what models read of these chunks, as they were counted when they were cut."""
        return sum(self._chunks_of(place.document_id).get(place.chunk_id, 0) for place in self.places(chunk_ids))

    def tokens_of(self, text: str) -> int:
        """Of a question, by the tokenizer of the dense model; 0 where that is not loaded, because no leg needs it."""
        if text not in self._of_texts:
            with self._session.reading() as version:
                encoder = self._session.encoder_at_hand(version)
            self._of_texts[text] = 0 if encoder is None else len(encoder.tokenizer.tokenize([text])[0])
        return self._of_texts[text]

    def _chunks_of(self, document_id: str) -> Mapping[str, int]:
        if document_id not in self._tokens:
            with self._session.reading() as version:
                self._tokens[document_id] = {str(one.id): one.tokens for one in version.ledger.chunks(document_id)}
        return self._tokens[document_id]

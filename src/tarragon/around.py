"""What stands around a hit: its neighbours, its section, and the other hits of its document.

Small to big without a second store: passages are found by small chunks, and read back larger from the chunks beside
them. As in a search the ledger has the last word, after the text was read: a passage is of one state of its document.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any
from uuid import UUID

from tarragon.errors import InvalidInput
from tarragon.protocols import OpenVersion
from tarragon.serving import served_document
from tarragon.types import Hit

MOST_CHARACTERS = 8_000
"""Of a section: some 2,000 tokens of English."""

GAP = "\n\n"
"""Stands for the white space between two chunks, which is not stored, and for anything that is missing there."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Some chunks of a document that follow one another, as one text.

    Attributes:
        document_id: The document.
        text: The text of all ``spans``, joined by a blank line.
        start: First character in the document's text.
        end: One past the last.
        heading: The headings that all of it stands under, outermost first.
        chunk_ids: The chunks, in the order of the document.
        spans: What ``text`` is made of, in order: ``document.text[start:end]`` of each. One, where the chunks touch or
            overlap; else the white space between them is what lies between the spans.
        is_cut: Whether the section goes on beyond it, before or after.
    """

    document_id: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    chunk_ids: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    is_cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DocumentHits:
    """The hits of one document, best first."""

    document_id: str
    hits: tuple[Hit, ...]


def neighbours(version: OpenVersion, chunk_id: str, before: int = 1, after: int = 1) -> Passage | None:
    """A chunk with so many before and after it, fewer at the ends of the document; they may be of other sections.

    Reads all chunks of the document, since only they know their place: O(its chunks).

    Args:
        version: Open while this runs.
        chunk_id: Of a hit.
        before: Chunks before it.
        after: Chunks after it.

    Returns:
        None if the chunk is not served any more: the document was rewritten or deleted since it was found.
    """
    if before < 0 or after < 0:
        raise InvalidInput(f"before={before} and after={after} must not be negative", before=before, after=after)
    pieces, place = _document(version, _parsed(chunk_id))
    return None if place is None else _passage(pieces[max(0, place - before) : place + after + 1])


def section(
    version: OpenVersion, chunk_id: str, level: int | None = None, max_characters: int = MOST_CHARACTERS
) -> Passage | None:
    """The section that a chunk stands in, with all sections inside it; what stands under no heading is a section too.

    Two sections of the same name that follow one another are taken for one. O(chunks of the document), as `neighbours`.

    Args:
        version: Open while this runs.
        chunk_id: Of a hit.
        level: How many of its headings count, from the outermost; 0 is the whole document. None: all of them.
        max_characters: Most characters of the text. From a longer section what is nearest to the chunk, as much before
            as after it, in whole chunks; the chunk itself in any case.

    Returns:
        None if the chunk is not served any more.
    """
    if level is not None and level < 0:
        raise InvalidInput(f"level={level} must not be negative; 0 is the whole document", level=level)
    if max_characters < 1:
        raise InvalidInput(f"max_characters={max_characters} must be at least 1", max_characters=max_characters)
    pieces, place = _document(version, _parsed(chunk_id))
    if place is None:
        return None
    first, last = _section(pieces, place, level)
    low, high = _nearest(pieces, place, (first, last), max_characters)
    return _passage(pieces[low : high + 1], is_cut=(low, high) != (first, last))


def by_document(hits: Iterable[Hit], limit: int | None = None) -> list[DocumentHits]:
    """The hits of each document together, in the order of the documents' first hits.

    Args:
        hits: Best first; their order counts, not their scores.
        limit: Most hits of a document; the best ones. None: all.
    """
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit={limit} hits of a document must be at least 1", limit=limit)
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.document_id, []).append(hit)
    return [DocumentHits(document_id, tuple(group[:limit])) for document_id, group in groups.items()]


# --- reading a document -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Piece:
    """A chunk that may be served."""

    id: UUID
    document_id: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]


def _parsed(chunk_id: str) -> UUID:
    try:
        return UUID(chunk_id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidInput(f"chunk_id={chunk_id!r} is not the id of a chunk, such as Hit.chunk_id") from None


def _document(version: OpenVersion, chunk: UUID) -> tuple[Sequence[_Piece], int | None]:
    """All chunks of a chunk's document, in the order of the text, and its place among them; None if it is not served.

    They are of one state, see `tarragon.serving.served_document`.
    """
    found = version.ledger.served([chunk]).get(chunk)
    if found is None:
        return (), None
    pieces = [_piece(id_, payload) for id_, payload in served_document(version, found.record.document_id).items()]
    pieces.sort(key=lambda piece: (piece.start, piece.end, piece.id.int))
    return pieces, next((place for place, piece in enumerate(pieces) if piece.id == chunk), None)


def _piece(id_: UUID, payload: Any) -> _Piece:
    text = payload["content"][payload["offset"] :]
    return _Piece(id_, payload["document_id"], text, payload["start"], payload["end"], tuple(payload["heading"]))


# --- choosing and joining ---------------------------------------------------------------------------------------------
def _section(pieces: Sequence[_Piece], place: int, level: int | None) -> tuple[int, int]:
    """The first and the last piece of the section."""
    path = pieces[place].heading[:level]
    is_preamble = not path and level is None

    def belongs(piece: _Piece) -> bool:
        return not piece.heading if is_preamble else piece.heading[: len(path)] == path

    before = sum(1 for _ in takewhile(belongs, reversed(pieces[:place])))
    after = sum(1 for _ in takewhile(belongs, pieces[place + 1 :]))
    return place - before, place + after


def _nearest(pieces: Sequence[_Piece], place: int, bounds: tuple[int, int], most: int) -> tuple[int, int]:
    """The first and the last piece around a place that fit: one after it and one before it, in turn."""
    low = high = place
    room = most - len(pieces[place].text)
    sides = deque([iter(range(place + 1, bounds[1] + 1)), iter(range(place - 1, bounds[0] - 1, -1))])
    while sides:
        side = sides.popleft()
        nearest = next(side, None)
        if nearest is None or (cost := len(GAP) + len(pieces[nearest].text)) > room:
            continue
        room -= cost
        low, high = min(low, nearest), max(high, nearest)
        sides.append(side)
    return low, high


def _passage(pieces: Sequence[_Piece], *, is_cut: bool = False) -> Passage:
    parts = _joined(pieces)
    return Passage(
        document_id=pieces[0].document_id,
        text=GAP.join(text for _, text in parts),
        start=parts[0][0],
        end=parts[-1][0] + len(parts[-1][1]),
        heading=_common([piece.heading for piece in pieces]),
        chunk_ids=tuple(str(piece.id) for piece in pieces),
        spans=tuple((start, start + len(text)) for start, text in parts),
        is_cut=is_cut,
    )


def _joined(pieces: Sequence[_Piece]) -> list[tuple[int, str]]:
    """Where each run of touching or overlapping pieces starts, and its text, without saying anything twice."""
    parts: list[tuple[int, str]] = []
    for piece in pieces:
        if parts and piece.start <= (end := parts[-1][0] + len(parts[-1][1])):
            parts[-1] = parts[-1][0], parts[-1][1] + piece.text[end - piece.start :]
        else:
            parts.append((piece.start, piece.text))
    return parts


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The longest path that all of them begin with."""
    alike = takewhile(lambda titles: len(set(titles)) == 1, zip(*paths, strict=False))
    return tuple(titles[0] for titles in alike)

"""What a version serves, document by document: for exports, and for those who keep books of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tarragon.filters import Filter, matches
from tarragon.protocols import DenseLeg, OpenVersion, SearchRequest
from tarragon.serving import PAGE, hit_of, served_document
from tarragon.types import Hit


def document_ids(version: OpenVersion) -> list[str]:
    """The documents that have text to serve, or had before a sync that failed, in order of their ids."""
    return sorted(id_ for id_, record in version.ledger.documents().items() if record.state is not None)


def documents_passing(version: OpenVersion, filter: Filter) -> list[str]:
    """Those that may pass a filter, in order of their ids, by one search of the engine for all that do.

    What is being written, or was when a sync was interrupted, may have other metadata than the engine knows of.
    """
    size = version.record.contract.dimensions
    everything = DenseLeg(np.full(size, size**-0.5, dtype=np.float32), max(1, version.store.count()))
    found = list(version.store.search(SearchRequest(dense=everything, filter=filter)).dense or {})
    ids: set[str] = set()
    for start in range(0, len(found), PAGE):
        served = version.ledger.served(found[start : start + PAGE])
        ids.update(chunk.record.document_id for chunk in served.values())
    if version.ledger.counts().unfinished:
        ids.update(
            id_ for id_, record in version.ledger.documents().items() if record.status in ("writing", "settling")
        )
    return sorted(ids)


def pages(version: OpenVersion, ids: Sequence[str] | None, filter: Filter | None) -> Iterator[list[str]]:
    """The documents, by default all that may pass the filter, in groups that have some `PAGE` chunks together."""
    if ids is None:
        ids = document_ids(version) if filter is None else documents_passing(version, filter)
    group: list[str] = []
    size = 0
    for id_ in ids:
        group.append(id_)
        size += len(version.ledger.chunks(id_))
        if size >= PAGE:
            yield group
            group, size = [], 0
    if group:
        yield group


def passages(version: OpenVersion, ids: Sequence[str], filter: Filter | None) -> list[Hit]:
    """Every passage that is served of these documents, in the order of ``ids`` and of the text, with a score of 0.

    Each document is of one state, see `tarragon.serving.served_document`. Unknown ids are left out.
    """
    hits = []
    for id_ in ids:
        served = served_document(version, id_)
        kept = [payload for payload in served.items() if filter is None or matches(filter, payload[1]["metadata"])]
        kept.sort(key=lambda entry: (entry[1]["start"], entry[1]["end"], entry[0].int))
        hits += [hit_of(chunk, 0.0, payload, version.record.name) for chunk, payload in kept]
    return hits

"""Move an index between a folder and a server: vectors, texts and records as they are, nothing embedded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from tarragon.comparing import DEPTH, overlap
from tarragon.contract import VersionRecord
from tarragon.errors import IndexNotFound, InvalidInput, StorageProblem
from tarragon.homes import open_catalog
from tarragon.protocols import Catalog, DocumentRecord, DocumentWrite, OpenVersion, SideSpace, StoredChunk
from tarragon.recipe import SearchRecipe
from tarragon.reports import CopyReport
from tarragon.searching import build_request, search
from tarragon.sides import prefix_space, side_space

PAGE_CHUNKS = 512
"""Chunks copied at once, at least those of one document."""

QUERIES = 50
"""Passages that both indexes are asked for afterwards."""

LEAST_OVERLAP = 0.98
"""Mean overlap@10 below which the copy counts as failed. Exact searches agree wholly; a vector graph on one side may
miss a neighbour now and then."""


def copy_index(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    api_key: str | None = None,
    server: Mapping[str, Any] | None = None,
) -> CopyReport:
    """Copy the serving version of an index to a place that holds none yet, and ask both the same questions.

    Interrupted, it leaves no index behind; running it again begins anew.

    Args:
        source: A folder or a server's URL and name.
        target: The same.
        api_key: Of the server, if one of them is on a server.
        server: Its options, such as ``{"shard_number": 3}``.

    Raises:
        IndexNotFound: There is nothing to copy.
        InvalidInput: The target holds an index already, or documents of the source are unfinished.
        StorageProblem: The copy answers differently.
    """
    origin = open_catalog(source, create=False, **_server_options(source, api_key, server))
    try:
        copy = open_catalog(target, **_server_options(target, api_key, server))
        try:
            return _copy(origin, copy)
        finally:
            copy.close()
    finally:
        origin.close()


def _server_options(
    place: str | os.PathLike[str], api_key: str | None, server: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {"api_key": api_key, "server": server} if "://" in os.fspath(place) else {}


def _copy(origin: Catalog, copy: Catalog) -> CopyReport:
    if copy.serving() is not None:
        raise InvalidInput(f"{copy.location} holds an index already; name a new place", path=copy.location)
    with origin.writing(), origin.reading() as version:
        if version is None:
            raise IndexNotFound(f"{origin.location} holds nothing yet")
        records = version.ledger.documents()
        if unfinished := [id_ for id_, record in records.items() if record.status not in ("ok", "failed")]:
            raise InvalidInput(
                f"{len(unfinished)} documents of {origin.location} are unfinished ({', '.join(unfinished[:3])}); "
                "sync it first",
                documents=unfinished,
            )
        with copy.writing():
            for leftover in copy.versions():
                copy.drop(leftover.name)
            made = copy.create(version.record.contract, serve=False)
            with copy.reading(made.name) as target:
                assert target is not None
                for space in _spaces(version.record):
                    target.store.add_space(space)
                for key in _attachments(version.record):
                    target.ledger.attach(key, version.ledger.attachment(key))
                for page in _pages(version, list(records.values())):
                    _copy_page(version, target, page)
                target.ledger.record(record for record in records.values() if record.status == "failed")
                for key, value in version.ledger.notes().items():
                    target.ledger.note(key, value)
                target.store.flush()
                asked, agreement = _compare(version, target)
            if agreement < LEAST_OVERLAP:
                raise StorageProblem(
                    f"the copy at {copy.location} answers differently: mean overlap@10 is {agreement:.3f} over {asked} "
                    f"queries, at least {LEAST_OVERLAP} is due. It does not serve; the original is untouched",
                    overlap=agreement,
                )
            copy.update(replace(version.record, name=made.name, created=made.created, promoted=True, retired=False))
            copy.point_to(made.name, former=())
        counts = version.ledger.counts()
    return CopyReport(origin.location, copy.location, counts.documents, counts.chunks, asked, agreement)


def _spaces(record: VersionRecord) -> list[SideSpace]:
    """Every space beside the dense one."""
    spaces = [side_space(side) for side in record.contract.sides]
    return spaces if record.prefix is None else [*spaces, prefix_space(record.prefix)]


def _attachments(record: VersionRecord) -> set[str]:
    """Keys of the texts that the record points to."""
    return {record.statistics, "" if record.prefix is None else record.prefix.rotation} - {""}


def _pages(version: OpenVersion, records: Sequence[DocumentRecord]) -> Iterator[list[DocumentWrite]]:
    page: list[DocumentWrite] = []
    size = 0
    for record in records:
        if record.status == "ok":
            page.append(DocumentWrite(record, tuple(version.ledger.chunks(record.document_id))))
            size += len(page[-1].chunks)
        if size >= PAGE_CHUNKS:
            yield page
            page, size = [], 0
    if page:
        yield page


def _copy_page(version: OpenVersion, target: OpenVersion, writes: Sequence[DocumentWrite]) -> None:
    ids = [chunk.id for write in writes for chunk in write.chunks]
    vectors, payloads = version.store.vectors(ids), version.store.payloads(ids)
    if missing := [id_ for id_ in ids if id_ not in vectors or id_ not in payloads]:
        raise StorageProblem(f"{len(missing)} chunks are missing; run tarragon verify --repair on the original first")
    sides = {space.name: version.store.sides(space, ids) for space in _spaces(version.record)}
    chunks = [
        StoredChunk(
            id_, vectors[id_], payloads[id_], {name: found[id_] for name, found in sides.items() if id_ in found}
        )
        for id_ in ids
    ]
    target.ledger.intend(writes)
    target.store.upsert(chunks)
    target.ledger.switch(writes)


def _compare(version: OpenVersion, target: OpenVersion) -> tuple[int, float]:
    """Passages asked of both, and the mean overlap of the ten best."""
    ids = list(islice(version.store.ids(), QUERIES))
    payloads, vectors = version.store.payloads(ids), version.store.vectors(ids)
    recipe = SearchRecipe()
    agreements = []
    for id_ in ids:
        request = build_request(payloads[id_]["content"], vectors[id_], DEPTH, None, recipe)
        first, second = (
            [one.hit.chunk_id for one in search(place, request, DEPTH, recipe)] for place in (version, target)
        )
        agreements.append(overlap(first, second))
    return len(ids), sum(agreements) / len(agreements) if agreements else 1.0

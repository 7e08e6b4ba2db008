"""Spaces beside the dense one on a server, and the queries over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tarragon.filters import relaxed
from tarragon.protocols import SEARCH_WIDTH, DenseLeg, SearchRequest, SideSpace, SideVector
from tarragon.store.server_client import QdrantClient, ServerConnection, models
from tarragon.store.server_filters import compile_filter
from tarragon.types import SparseVector

DATATYPES = {"float32": "float32", "float16": "float16", "int8": "turbo8"}
"""How the numbers of a vector are kept, as in `tarragon.store.edge`."""


def spaces(connection: ServerConnection, collection: str) -> set[str]:
    """Names of every vector of a collection."""
    parameters = connection.call(
        f"look at {collection}", lambda client: client.get_collection(collection)
    ).config.params
    dense = parameters.vectors if isinstance(parameters.vectors, dict) else {}
    return {*dense, *(parameters.sparse_vectors or {})}


def add_space(connection: ServerConnection, collection: str, space: SideSpace) -> None:
    """Make room for another vector a chunk, if it is not there; servers can do that from 1.18 on."""
    config: Any
    if space.kind == "sparse":
        config = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig())
    else:
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        config = models.DenseVectorNameConfig(
            dense=models.DenseVectorConfig(
                size=space.dimensions,
                distance=models.Distance.DOT,
                multivector_config=several if space.kind == "late" else None,
                datatype=models.VectorStorageDatatype(DATATYPES[space.datatype]),
            )
        )

    def make(client: QdrantClient) -> None:
        if space.name not in spaces(connection, collection):
            client.create_vector_name(collection, space.name, config)

    connection.call(f"make the space {space.name}", make)


def build_queries(
    request: SearchRequest, space: str, text: str, *, has_graph: bool
) -> Iterator[tuple[str, models.QueryRequest]]:
    """One query for each kind of score, over the union of the legs' candidates.

    Without a graph, as in qdrant-client's local mode, how wide to search it is not said: that mode would warn.
    """
    filter_ = compile_filter(relaxed(request.filter)) if request.filter is not None else None
    dense, lexical, sparse = request.dense, request.lexical, request.sparse
    legs: dict[str, models.Prefetch] = {}
    if dense is not None:
        legs["dense"] = _dense_leg(dense, space, filter_, _wide if has_graph else _as_it_is)
    if lexical is not None:
        words = models.TextQuery(text=lexical.text)
        legs["lexical"] = models.Prefetch(query=words, using=text, limit=lexical.limit, filter=filter_)
    if sparse is not None:
        terms = models.NearestQuery(nearest=native(sparse.vector))
        legs["sparse"] = models.Prefetch(query=terms, using=sparse.space, limit=sparse.limit, filter=filter_)
    limit = sum(leg.limit for leg in (dense, lexical, sparse) if leg is not None)
    union = list(legs.values())
    alone = len(union) == 1
    told = max(lexical.limit, lexical.scores) if lexical is not None else 0
    for name, leg in legs.items():
        if name == "lexical" or (alone and not leg.prefetch):
            own = told if name == "lexical" else leg.limit
            params = leg.params
            yield name, models.QueryRequest(query=leg.query, using=leg.using, limit=own, filter=filter_, params=params)
        else:
            parts = leg.prefetch if alone else union
            yield name, models.QueryRequest(query=leg.query, using=leg.using, limit=limit, prefetch=parts)
    if request.late is not None:
        late = models.NearestQuery(nearest=request.late.vectors.tolist())
        yield "late", models.QueryRequest(query=late, using=request.late.space, limit=limit, prefetch=union)


def _dense_leg(dense: DenseLeg, space: str, filter_: Any, params: Callable[[int], Any]) -> models.Prefetch:
    nearest = models.NearestQuery(nearest=dense.vector.tolist())
    if dense.first is None:
        return models.Prefetch(
            query=nearest, using=space, limit=dense.limit, filter=filter_, params=params(dense.limit)
        )
    short = models.NearestQuery(nearest=dense.first.vector.tolist())
    depth = dense.first.limit
    first = models.Prefetch(query=short, using=dense.first.space, limit=depth, filter=filter_, params=params(depth))
    return models.Prefetch(query=nearest, using=space, limit=dense.limit, prefetch=[first])


def _wide(limit: int) -> models.SearchParams:
    return models.SearchParams(hnsw_ef=max(SEARCH_WIDTH, limit))


def _as_it_is(limit: int) -> None:
    return None


def native(vector: SideVector) -> Any:
    """A vector in the form of the client."""
    if isinstance(vector, SparseVector):
        return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector.tolist()


def ours(vector: Any) -> SideVector:
    """A vector of the client in our form."""
    if isinstance(vector, models.SparseVector):
        order = np.argsort(vector.indices)
        indices, values = np.asarray(vector.indices, dtype=np.int32), np.asarray(vector.values, dtype=np.float32)
        return SparseVector(indices[order], values[order])
    return np.asarray(vector, dtype=np.float32)

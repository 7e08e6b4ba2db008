"""A question in every space of a version: vectors, for all legs, made once and kept for a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tarragon.contract import Contract, SideContract
from tarragon.errors import InvalidInput
from tarragon.filters import Filter
from tarragon.observing import embedding
from tarragon.protocols import OpenVersion, SearchRequest
from tarragon.queries import Encoded, QueryVector, QueryVectors, SpaceKey
from tarragon.recipe import SearchRecipe
from tarragon.requests import SideQueries, build_request, wants
from tarragon.searching import warn_of_truncation
from tarragon.session import Session
from tarragon.sides import shorten
from tarragon.statistics import Spread
from tarragon.types import DenseQuery, FloatArray


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, ready for the store.

    Attributes:
        text: As it was put.
        vector: Its dense vector; None if no leg needs it.
        sides: Its vectors in the other spaces.
        spread: Of its dense scores over the corpus, where that is known.
        spaces: By leg, the fingerprint of the model.
        truncated: Tokens that models did not see.
    """

    text: str
    vector: FloatArray | None
    sides: SideQueries
    spread: Spread | None
    spaces: dict[str, str]
    truncated: int

    def request(self, k: int, filter: Filter | None, recipe: SearchRecipe) -> SearchRequest:
        """What the store is asked."""
        return build_request(self.text, self.vector, k, filter, recipe, self.sides)


class Asker:
    """Turns questions into vectors.

    Args:
        session: The index.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.vectors = QueryVectors()

    def ask(
        self,
        version: OpenVersion,
        texts: Sequence[str],
        recipe: SearchRecipe,
        given: Sequence[FloatArray | DenseQuery | None] = (),
    ) -> list[Asked]:
        """Each question in the spaces that the recipe searches; models run once for all of them.

        Args:
            version: To be searched.
            texts: The questions.
            recipe: How to search.
            given: Per text, its dense vector or what the dense leg is asked instead of it; None: the text.

        Raises:
            InvalidInput: A given vector is none of this space, or a leg is wanted that the index does not have.
        """
        contract = version.record.contract
        sparse, late = contract.side("sparse"), contract.side("late")
        legs = wants(recipe, has_sparse=sparse is not None)
        spaces: dict[str, str] = {}
        dense: Sequence[QueryVector[Any] | None] = [None] * len(texts)
        terms, tokens = dense, dense
        if "dense" in legs:
            spaces["dense"] = contract.fingerprint
            dense = self._dense(version, texts, recipe, given or [None] * len(texts))
        if "sparse" in legs and sparse is not None:
            spaces["sparse"] = sparse.fingerprint
            terms = self._side(version, sparse, texts)
        if recipe.late and late is not None:
            spaces["late"] = late.fingerprint
            tokens = self._side(version, late, texts)
        return [
            self._asked(version, recipe, text, spaces, found)
            for text, *found in zip(texts, dense, terms, tokens, strict=True)
        ]

    def _asked(
        self,
        version: OpenVersion,
        recipe: SearchRecipe,
        text: str,
        spaces: dict[str, str],
        found: Sequence[QueryVector[Any] | None],
    ) -> Asked:
        dense, terms, tokens = found
        contract = version.record.contract
        sparse, late = contract.side("sparse"), contract.side("late")
        vector = None if dense is None else dense.vector
        statistics = (
            self._session.measures.statistics(version) if recipe.fusion == "calibrated" and dense is not None else None
        )
        first = self._first(version, vector) if recipe.first_pass and vector is not None else None
        if first is not None:
            spaces = {**spaces, "first pass": first[0]}
        sides = SideQueries(
            first=first,
            sparse=(sparse.space, terms.vector) if terms is not None and sparse is not None else None,
            late=(late.space, tokens.vector) if tokens is not None and late is not None else None,
        )
        truncated = sum(one.truncated for one in found if one is not None)
        spread = statistics.spread(vector) if statistics is not None and vector is not None else None
        return Asked(text, vector, sides, spread, spaces, truncated)

    def _first(self, version: OpenVersion, vector: FloatArray) -> tuple[str, FloatArray, float] | None:
        prefix = version.record.prefix
        if prefix is None:
            return None
        axes = self._session.measures.axes(version, prefix)
        if prefix.rotation and axes is None:  # another process has just made another one
            return None
        return prefix.space, shorten(vector[None, :], prefix, axes)[0], prefix.depth

    # --- vectors ------------------------------------------------------------------------------------------------------
    def _dense(
        self,
        version: OpenVersion,
        texts: Sequence[str],
        recipe: SearchRecipe,
        given: Sequence[FloatArray | DenseQuery | None],
    ) -> list[QueryVector[Any]]:
        contract = version.record.contract
        wanted = [_wanted(text, row, contract) for text, row in zip(texts, given, strict=True)]
        missing = [text for one in wanted if isinstance(one, tuple) for text in one]
        rest = iter(self._embedded(version, missing, recipe) if missing else ())
        return [_mean(list(islice(rest, len(one)))) if isinstance(one, tuple) else one for one in wanted]

    def _embedded(
        self, version: OpenVersion, texts: Sequence[str], recipe: SearchRecipe
    ) -> Sequence[QueryVector[FloatArray]]:
        encoder = self._session.trusted_encoder(version)

        def encode(part: Sequence[str]) -> Encoded[FloatArray]:
            made = encoder.encode_queries(part, recipe.query_prompt)
            return Encoded(list(made.vectors), made.truncated)

        key = SpaceKey(version.record.contract.fingerprint, "dense", recipe.query_prompt)
        fresh = embedding("dense", encoder.name, texts, lambda: self.vectors.vectors(key, texts, encode))
        if truncated := sum(row.truncated for row in fresh if not row.cached):
            warn_of_truncation(truncated, encoder.name)
        return fresh

    def _side(self, version: OpenVersion, side: SideContract, texts: Sequence[str]) -> Sequence[QueryVector[Any]]:
        encoder = self._session.side_encoder(version, side)

        def encode(part: Sequence[str]) -> Encoded[Any]:
            made = encoder.encode_queries(part)
            return Encoded(list(made.vectors), made.truncated)

        key = SpaceKey(side.fingerprint, side.kind)
        return embedding(side.kind, encoder.name, texts, lambda: self.vectors.vectors(key, texts, encode))


def _wanted(text: str, given: FloatArray | DenseQuery | None, contract: Contract) -> QueryVector[Any] | tuple[str, ...]:
    """The vector that is given, if it is of this space; else the texts to embed."""
    if given is None:
        return (text,)
    if not isinstance(given, DenseQuery):
        given = DenseQuery(vector=given)
    if given.vector is None or given.fingerprint not in (None, contract.fingerprint):
        return tuple(one for one in given.texts if one.strip()) or (text,)
    return QueryVector(_checked(given.vector, contract.dimensions), 0)


def _mean(rows: Sequence[QueryVector[FloatArray]]) -> QueryVector[FloatArray]:
    """One vector of the mean direction, as long as the vectors are on average."""
    if len(rows) == 1:
        return rows[0]
    vectors = np.stack([row.vector for row in rows])
    mean = vectors.mean(axis=0)
    scale = np.linalg.norm(vectors, axis=1).mean() / max(float(np.linalg.norm(mean)), 1e-12)
    return QueryVector((mean * scale).astype(np.float32), sum(row.truncated for row in rows))


def _checked(vector: FloatArray, dimensions: int) -> FloatArray:
    row = np.asarray(vector, dtype=np.float32)
    if row.shape != (dimensions,) or not np.isfinite(row).all():
        raise InvalidInput(f"a query vector has {dimensions} finite numbers here, not shape {row.shape}: {row!r:.80}")
    return row

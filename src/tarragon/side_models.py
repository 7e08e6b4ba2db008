"""Models beside the dense encoder: the caller's own, or those that a recipe names, loaded when first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal

from tarragon.contract import SideContract, VersionRecord
from tarragon.encoders.side_loading import load_late, load_sparse
from tarragon.errors import RecipeMismatch
from tarragon.identity import fingerprint
from tarragon.protocols import DenseEncoder, LateEncoder, Reranker, SparseEncoder
from tarragon.recipe import IndexRecipe, RerankStep
from tarragon.rerankers.loading import load_reranker
from tarragon.reranking import Step

SideKind = Literal["sparse", "late"]


class SideModels:
    """Sparse and late-interaction encoders of an open index.

    Args:
        sparse: The caller's own.
        late: The caller's own.
        device: Where models run.
    """

    def __init__(self, sparse: SparseEncoder | None, late: LateEncoder | None, device: str | None) -> None:
        self._given: dict[SideKind, SparseEncoder | LateEncoder | None] = {"sparse": sparse, "late": late}
        self._device = device
        self._loaded: dict[tuple[SideKind, str], SparseEncoder | LateEncoder] = {}
        self._loading = threading.Lock()

    def contracts(self, recipe: IndexRecipe, dense: DenseEncoder) -> tuple[SideContract, ...]:
        """What an index of this recipe is built with beside the dense model."""
        found = []
        if (sparse := self._encoder("sparse", recipe, lambda: dense)) is not None:
            found.append(SideContract("sparse", sparse.name, 0, dict(sparse.identity)))
        if (late := self._encoder("late", recipe, lambda: dense)) is not None:
            dimensions = late.dimensions  # type: ignore[union-attr] # a late encoder has them
            found.append(SideContract("late", late.name, dimensions, dict(late.identity), recipe.late_datatype))
        return tuple(found)

    def check_given(self, record: VersionRecord | None, location: str) -> None:
        """Make sure that no encoder is given for a space that an index does not have. Raises `RecipeMismatch`."""
        for kind, given in self._given.items():
            if record is not None and given is not None and record.contract.side(kind) is None:
                raise RecipeMismatch(
                    f"{location} was built without a {kind} model, and {given.name} is given as {kind}_encoder: leave "
                    "it out, or build a version with it: Index.upgrade"
                )

    def encoder(
        self, side: SideContract, recipe: IndexRecipe, dense: Callable[[], DenseEncoder]
    ) -> SparseEncoder | LateEncoder:
        """The model of a space.

        Raises:
            RecipeMismatch: There is none, or it makes other vectors.
        """
        encoder = self._encoder(side.kind, recipe, dense)
        if encoder is None:
            raise RecipeMismatch(
                f"the index was built with the {side.kind} model {side.model}, which its recipe does not name: "
                f"give it to Index.open as {side.kind}_encoder",
                built=side.fingerprint,
            )
        if (given := fingerprint(encoder.identity)) != side.fingerprint:
            differing = sorted(
                name
                for name in {*side.identity, *encoder.identity}
                if side.identity.get(name) != encoder.identity.get(name)
            )
            raise RecipeMismatch(
                f"the index holds {side.kind} vectors of {side.model} ({side.fingerprint[:12]}), and {encoder.name} "
                f"makes others ({given[:12]}); they differ in {', '.join(differing)}. Open it with the model it was "
                "built with, or rebuild it with Index.upgrade (tarragon upgrade)",
                built=side.fingerprint,
                given=given,
                differing=differing,
            )
        return encoder

    def _encoder(
        self, kind: SideKind, recipe: IndexRecipe, dense: Callable[[], DenseEncoder]
    ) -> SparseEncoder | LateEncoder | None:
        """The caller's, or the recipe's; of a model that gives several spaces, a part of the dense one."""
        if (given := self._given[kind]) is not None:
            return given
        model = recipe.sparse_model if kind == "sparse" else recipe.late_model
        if model is None:
            return None
        if model == recipe.model and (part := getattr(dense(), kind, None)) is not None:
            encoder: SparseEncoder | LateEncoder = part
            return encoder
        with self._loading:
            if (kind, model) not in self._loaded:
                load = load_sparse if kind == "sparse" else load_late
                self._loaded[kind, model] = load(model, self._device)
            return self._loaded[kind, model]


class Rerankers:
    """The rerankers that recipes name, loaded when they are first needed.

    Args:
        device: Where models run.
    """

    def __init__(self, device: str | None) -> None:
        self._device = device
        self._loaded: dict[str, Reranker] = {}
        self._loading = threading.Lock()

    def steps(self, wanted: Sequence[RerankStep]) -> list[Step]:
        """Each with its reranker: by name, or the caller's own."""
        return [Step(self._reranker(step.model), step.depth) for step in wanted]

    def _reranker(self, model: str | Reranker) -> Reranker:
        if not isinstance(model, str):
            return model
        with self._loading:
            if model not in self._loaded:
                self._loaded[model] = load_reranker(model, self._device)
            return self._loaded[model]

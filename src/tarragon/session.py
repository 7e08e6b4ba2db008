"""What the operations on an open index share: its catalog, its encoders, its sources."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tarragon import canaries
from tarragon.background import Background
from tarragon.chunking import PARSER_REVISION, chunker_identity
from tarragon.contract import Contract, SideContract, VersionRecord
from tarragon.encoders.devices import first_device
from tarragon.encoders.loading import load_encoder
from tarragon.errors import EncoderDrift, IndexNotFound, InvalidInput, RecipeMismatch
from tarragon.identity import fingerprint
from tarragon.measures import Measures, rate_of
from tarragon.origins import Origins
from tarragon.preparing import StoredVectors, VectorSource, Writer
from tarragon.protocols import (
    Catalog,
    DenseEncoder,
    LateEncoder,
    OpenVersion,
    SparseEncoder,
)
from tarragon.recipe import IndexRecipe
from tarragon.reports import duration
from tarragon.side_models import Rerankers, SideModels
from tarragon.sides import EncodedSide, PrefixMaker, SideMaker, add_spaces
from tarragon.sources import READER_REVISION
from tarragon.sources.formats import format_of
from tarragon.store.cache import VectorCache, cache_path
from tarragon.survey import SurveyOptions

if TYPE_CHECKING:
    from tarragon.types import FloatArray

DISK_MARGIN = 128 << 20
"""Free bytes that the engine needs for its log and new segments, beside the data itself."""

DISK_FACTOR = 4
"""Bytes on disk per byte of vectors and text: data, log, index and the copy while segments are merged."""

PATIENCE = 60.0
"""Seconds that a writer waits for a slice of an upgrade. For another sync it does not wait."""

READER = f"reader {READER_REVISION} parser {PARSER_REVISION}"


class CanaryWarning(UserWarning):
    """The model's vectors differ from those it made before, by so little that they may still be compared."""


class Session:
    """An open index with its encoders.

    Args:
        catalog: Where it lives.
        recipe: Settings that the caller asked for; None: the index's own.
        encoders: The caller's own, to be used instead of a recipe's model wherever they match.
        device: Where models run; None: the best there is. Of several, all for the dense one, the first for others.
        sparse: The caller's own sparse encoder.
        late: The caller's own late-interaction encoder.

    Attributes:
        device: Where models run, as the caller asked; None: the best there is.
        is_asked: Whether somebody has searched: then a sync must not keep the next one waiting.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        recipe: IndexRecipe | None,
        encoders: Sequence[DenseEncoder],
        device: str | None,
        sparse: SparseEncoder | None = None,
        late: LateEncoder | None = None,
    ) -> None:
        self.catalog = catalog
        self._wanted = recipe
        self._given = tuple(encoders)
        self.device = device
        self.side_models = SideModels(sparse, late, first_device(device))
        self.measures = Measures(catalog)
        self.rerankers = Rerankers(first_device(device))
        self._loading = threading.RLock()  # so that questions at the same time load one model between them
        self._known: list[tuple[str, DenseEncoder]] = []
        self._trusted: set[tuple[str, int]] = set()
        self._just_made: set[str] = set()
        self.is_asked = False
        self.origins = Origins()

    # --- versions -----------------------------------------------------------------------------------------------------
    @property
    def recipe(self) -> IndexRecipe:
        """The settings that the index is, or will be, built with. Raises `RecipeMismatch`."""
        serving = self.catalog.serving()
        return self._wanted or IndexRecipe() if serving is None else self.agreed(self.record(serving))

    def agreed(self, record: VersionRecord) -> IndexRecipe:
        """The recipe to use for a version: its own, with the model as named by the caller.

        Models are told apart by their fingerprint when they are loaded, not by name.

        Raises:
            RecipeMismatch: The caller asked for other settings.
        """
        built = record.contract.recipe
        if self._wanted is None:
            return built
        old, new = built.to_dict(), self._wanted.to_dict()
        differing = [name for name in old if name != "model" and old[name] != new[name]]
        if differing:
            changes = "; ".join(f"{name} is {old[name]!r}, not {new[name]!r}" for name in differing)
            raise RecipeMismatch(
                f"{self.catalog.location} was built with other settings: {changes}. Leave the recipe out to use the "
                "index as it is, or rebuild it beside the serving one: Index.upgrade (tarragon upgrade)",
                path=self.catalog.location,
                differing=differing,
            )
        return self._wanted if self._wanted.model is not None else built

    def forget_wanted(self) -> None:
        """Take each version as it is from now on: the pointer has moved by this session's own hand."""
        self._wanted = None

    def record(self, name: str) -> VersionRecord:
        """The record of a version. Raises `InvalidInput` if there is none of this name."""
        records = {record.name: record for record in self.catalog.versions()}
        if name not in records:
            raise InvalidInput(f"no version {name!r}; there are {', '.join(records) or 'none'}", name=name)
        return records[name]

    @contextmanager
    def reading(self, name: str | None = None) -> Iterator[OpenVersion]:
        """A version, or the serving one. Raises `IndexNotFound` before the first sync."""
        with self.catalog.reading(name) as version:
            if version is None:
                raise IndexNotFound(f"{self.catalog.location} holds nothing yet; sync a source first")
            yield version

    def create(self, recipe: IndexRecipe, encoder: DenseEncoder, *, serve: bool) -> VersionRecord:
        """A new version for this recipe and encoder, with its canaries."""
        probes = canaries.pack(canaries.run(encoder))
        record = self.catalog.create(self.contract_of(recipe, encoder), serve=serve, canaries=probes)
        self._mark_trusted(record, encoder)
        self._just_made.add(record.name)
        if record.contract.sides:
            with self.reading(record.name) as version:
                add_spaces(version.store, record.contract.sides)
        return record

    def contract_of(self, recipe: IndexRecipe, encoder: DenseEncoder) -> Contract:
        """The contract under which this recipe and encoder build, with the models beside it."""
        dense = Contract.of(recipe, encoder.name, encoder.dimensions, encoder.identity, encoder.max_tokens)
        return replace(dense, sides=self.side_models.contracts(recipe, encoder))

    # --- encoders -----------------------------------------------------------------------------------------------------
    def new_encoder(self, recipe: IndexRecipe) -> DenseEncoder:
        """The encoder that a new version of this recipe is built with: the caller's own, or the recipe's model."""
        encoder = self._given[0] if self._given else load_encoder(recipe, self.device)
        self.remember(encoder)
        return encoder

    def remember(self, encoder: DenseEncoder) -> None:
        """Use this encoder for the versions of its space."""
        if all(known is not encoder for _, known in self._known):
            self._known.append((fingerprint(encoder.identity), encoder))

    def with_encoder(self, encoder: DenseEncoder | None) -> Session:
        """A session on the same index for another encoder, or for whatever a new recipe names."""
        given = () if encoder is None else (encoder,)
        other = Session(self.catalog, recipe=None, encoders=given, device=self.device)
        other._known, other.origins = list(self._known), self.origins
        other.side_models, other.measures, other.rerankers = self.side_models, self.measures, self.rerankers
        return other

    def adopt_encoders(self, other: Session) -> None:
        """Use the encoders of another session too."""
        for _, encoder in other._known:
            self.remember(encoder)

    def encoder_at_hand(self, version: OpenVersion) -> DenseEncoder | None:
        """The encoder of a version's space, if it is loaded already."""
        for encoder in self._given:
            self.remember(encoder)
        wanted = version.record.contract.fingerprint
        return next((encoder for print_, encoder in self._known if print_ == wanted), None)

    def encoder_for(self, version: OpenVersion) -> DenseEncoder:
        """The encoder of a version's space.

        Raises:
            RecipeMismatch: The caller's encoder, or the model by this name, makes other vectors.
        """
        with self._loading:
            if (encoder := self.encoder_at_hand(version)) is not None:
                return encoder
            if not self._given:
                recipe = version.record.contract.recipe
                if version.record.name == self.catalog.serving():
                    recipe = self.agreed(version.record)
                self.remember(load_encoder(recipe, self.device))
                if (encoder := self.encoder_at_hand(version)) is not None:
                    return encoder
        raise self._other_space(version, self._known[-1][1] if not self._given else self._given[0])

    def side_encoder(self, version: OpenVersion, side: SideContract) -> SparseEncoder | LateEncoder:
        """The encoder of a space beside the dense one. Raises `RecipeMismatch` if it makes other vectors."""
        return self.side_models.encoder(side, version.record.contract.recipe, lambda: self.encoder_for(version))

    def check_named(self, version: OpenVersion) -> None:
        """Make sure that the encoder or model that the caller named is the one of this version.

        Without one, the version's own model is used, and loaded only when there is something to embed.

        Raises:
            RecipeMismatch: It is another.
        """
        _ = self.agreed(version.record)
        if self._given or (self._wanted is not None and self._wanted.model is not None):
            self.encoder_for(version)

    def check_opened(self) -> None:
        """Make sure that what the caller asked for fits the serving version, as far as no model must be loaded."""
        serving = self.catalog.serving()
        if serving is not None and self._given:
            with self.reading() as version:
                self.check_named(version)
        elif serving is not None:
            _ = self.agreed(self.record(serving))
        self.side_models.check_given(None if serving is None else self.record(serving), self.catalog.location)

    def trusted_encoder(self, version: OpenVersion, *, again: bool = False) -> DenseEncoder:
        """The encoder of a version, after its canaries have been compared: once, or ``again``.

        Raises:
            EncoderDrift: It declares the version's identity and makes other vectors.
        """
        known = self.encoder_at_hand(version)
        if known is not None and not again and (version.record.name, id(known)) in self._trusted:
            return known
        with self._loading:
            return self._trusted_encoder(version, again)

    def _trusted_encoder(self, version: OpenVersion, again: bool) -> DenseEncoder:
        encoder = self.encoder_for(version)
        if not again and (version.record.name, id(encoder)) in self._trusted:
            return encoder
        stored, now = _stored_canaries(version.record), canaries.run(encoder)
        if stored is None:
            self.catalog.update(replace(version.record, canaries=canaries.pack(now)))
        elif (verdict := canaries.judge(stored, now)).verdict == "different":
            raise EncoderDrift(
                f"{encoder.name} declares the same identity as the model that built {self.catalog.location} "
                f"{version.record.name}, but makes other vectors: {verdict.sentence()}. Its runtime has changed "
                "(library versions, hardware, a remote model under the same name). Pin it back, or rebuild with "
                "Index.upgrade (tarragon upgrade)",
                **verdict.to_dict(),
            )
        elif verdict.verdict == "warn":
            warnings.warn(f"{encoder.name}: {verdict.sentence()}", CanaryWarning, stacklevel=3)
        self._mark_trusted(version.record, encoder)
        return encoder

    def canary_verdict(self, version: OpenVersion, encoder: DenseEncoder) -> canaries.CanaryVerdict | None:
        """How an encoder's vectors compare with those that built the version; None where it has no canaries."""
        stored = _stored_canaries(version.record)
        return None if stored is None else canaries.judge(stored, canaries.run(encoder))

    def _mark_trusted(self, record: VersionRecord, encoder: DenseEncoder) -> None:
        self._trusted.add((record.name, id(encoder)))

    def _other_space(self, version: OpenVersion, encoder: DenseEncoder) -> RecipeMismatch:
        """The error for an encoder of another space: what differs, what it costs to mend, or that it costs nothing."""
        contract, identity = version.record.contract, dict(encoder.identity)
        names = {*contract.identity, *identity}
        differing = sorted(name for name in names if contract.identity.get(name) != identity.get(name))
        verdict = self.canary_verdict(version, encoder)
        if verdict is not None and verdict.verdict == "same":
            mend = (
                f"Its canaries are the same, though ({verdict.sentence()}): Index.adopt (tarragon adopt) relabels the "
                "index without embedding anything"
            )
        else:
            counts = version.ledger.counts()
            seconds = f", about {duration(counts.tokens / rate)}" if (rate := rate_of(version.ledger)) else ""
            mend = (
                f"Open it with the model it was built with, or rebuild it with Index.upgrade (tarragon upgrade): "
                f"{counts.documents:,} documents, {counts.chunks:,} chunks, {counts.tokens:,} tokens to embed{seconds}"
            )
        return RecipeMismatch(
            f"the index holds vectors of {contract.model} ({contract.fingerprint[:12]}), and {encoder.name} makes "
            f"others ({fingerprint(identity)[:12]}); they differ in {', '.join(differing)}. {mend}",
            built=contract.fingerprint,
            given=fingerprint(identity),
            differing=differing,
        )

    # --- writing ------------------------------------------------------------------------------------------------------
    @contextmanager
    def computing(self) -> Iterator[Background]:
        """Where to embed documents: a thread that gives way to questions, once this session has been asked one."""
        with Background(gives_way=self.is_asked) as background:
            yield background

    def writer(
        self,
        version: OpenVersion,
        donors: Sequence[VectorSource] = (),
        compute: Background | None = None,
    ) -> Writer:
        """What a sync into this version writes with."""
        contract = version.record.contract

        def check_canaries() -> None:
            self.trusted_encoder(version, again=version.record.name not in self._just_made)
            self._just_made.discard(version.record.name)

        return Writer(
            version,
            lambda: self.encoder_for(version),
            (contract.recipe.chunking, contract.limit),
            donors=donors,
            compute=compute,
            before_embedding=check_canaries,
            before_write=lambda size: self.catalog.require_room(DISK_MARGIN + DISK_FACTOR * size),
            sides=self._side_makers(version),
        )

    def _side_makers(self, version: OpenVersion) -> list[SideMaker]:
        contract, prefix = version.record.contract, version.record.prefix

        makers: list[SideMaker] = [
            EncodedSide(side, partial(self.side_encoder, version, side)) for side in contract.sides
        ]
        return makers if prefix is None else [*makers, PrefixMaker(prefix, self.measures.axes(version, prefix))]

    def patience(self) -> float:
        """How long a sync waits for another writer: for a slice of an upgrade, but not for another sync."""
        serving = self.catalog.serving()
        roles = [record.role(serving) for record in self.catalog.versions()]
        return PATIENCE if "building" in roles else 0.0

    def options(
        self,
        contract: Contract,
        namespace: str,
        *,
        prune: bool = True,
        max_delete: float | None = None,
        only: Callable[[str], bool] | None = None,
        ids: Collection[str] | None = None,
    ) -> SurveyOptions:
        """What a sync of this version looks at."""
        chunker = chunker_identity(contract.recipe.chunking, contract.limit)
        return SurveyOptions(namespace, prune, max_delete, format_of, READER, chunker, only, ids)

    @contextmanager
    def donors(self, version: OpenVersion) -> Iterator[list[VectorSource]]:
        """The other versions of the same space, whose vectors can be copied."""
        record = version.record
        with self.same_space(record.contract.fingerprint, but=record.name, like=record.canaries) as found:
            yield found

    @contextmanager
    def same_space(self, space: str, *, but: str = "", like: str | None = None) -> Iterator[list[VectorSource]]:
        """The versions of a space, by its fingerprint, then what bridges have kept of it.

        Only what was made by a runtime with the same canaries as ``like``; None: by any, which will do for an estimate.
        """
        records = [record for record in self.catalog.versions() if record.contract.fingerprint == space]
        names = [
            record.name
            for record in records
            if record.name != but and (like is None or same_canaries(record.canaries, like))
        ]
        with ExitStack() as stack:
            opened = [stack.enter_context(self.reading(name)) for name in names]
            stored: list[VectorSource] = [StoredVectors(version) for version in opened]
            label = self.cache.label(space)
            kept = label is not None and (like is None or same_canaries(label, like))
            yield [*stored, self.cache.of(space, label)] if label is not None and kept else stored

    @property
    def cache(self) -> VectorCache:
        """Vectors that bridges have made; there is no file before the first is kept."""
        return VectorCache(cache_path(self.catalog.location))

    def clear_cache(self) -> None:
        """Drop what bridges have kept, except for spaces that are being built: complete versions have their own."""
        serving = self.catalog.serving()
        records = self.catalog.versions()
        built = {record.contract.fingerprint for record in records if record.role(serving) == "building"}
        for space in set(self.cache.spaces()) - built:
            self.cache.clear(space)


def _stored_canaries(record: VersionRecord) -> FloatArray | None:
    return canaries.unpack(record.canaries) if record.canaries else None


def same_canaries(first: str, second: str) -> bool:
    """Whether two runtimes, by their packed canaries, make the same vectors; False where one is missing or broken."""
    try:
        one, two = canaries.unpack(first), canaries.unpack(second)
        return one is not None and two is not None and canaries.judge(one, two).verdict == "same"
    except InvalidInput:
        return False

"""The versions of an index: upgrade, compare, promote, roll back, clear up, verify."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from tarragon import versions
from tarragon.comparing import Query, compare
from tarragon.errors import InvalidInput, NotReady
from tarragon.progress import progress_bar
from tarragon.protocols import DenseEncoder, Source
from tarragon.recipe import IndexRecipe
from tarragon.reports import Comparison, Plan, Progress, UpgradeReport, VerifyReport, VersionInfo
from tarragon.session import PATIENCE, Session
from tarragon.sources import open_source
from tarragon.types import Document
from tarragon.verifying import verify

AnySource: TypeAlias = "str | os.PathLike[str] | Iterable[Document] | Source"
AnyProgress: TypeAlias = "bool | Callable[[Progress], None] | None"


class VersionedIndex:
    """What `Index` can do with its versions."""

    def __init__(self, session: Session) -> None:
        self._session: Session | None = session

    # --- versions -----------------------------------------------------------------------------------------------------
    def versions(self) -> list[VersionInfo]:
        """Every version of the index, oldest first."""
        return versions.infos(self._opened)

    def plan_upgrade(
        self,
        recipe: IndexRecipe | None = None,
        *,
        encoder: DenseEncoder | None = None,
        sources: Mapping[str, AnySource] | None = None,
    ) -> list[Plan]:
        """What `upgrade` with the same arguments would embed, how long it would take and how much disk; a plan for each
        namespace. Writes nothing.
        """  # noqa: D205
        session, wanted = self._upgrading(recipe, encoder)
        return versions.plan_upgrade(session, wanted, versions.sources_of(self._opened, _open_sources(sources)))

    def upgrade(
        self,
        recipe: IndexRecipe | None = None,
        *,
        encoder: DenseEncoder | None = None,
        sources: Mapping[str, AnySource] | None = None,
        promote_above: float | None = None,
        queries: Sequence[Query] = (),
        progress: AnyProgress = None,
    ) -> UpgradeReport:
        """Build a version with another model or other settings, while the serving one serves and syncs reach both.

        Can be interrupted; running it again goes on. Vectors that are the same in both versions are copied. The new
        version serves after `promote`, or at once if it answers enough like the old one.

        Args:
            recipe: The new settings. By default the index's own, for another ``encoder``.
            encoder: Your own, instead of the recipe's model.
            sources: By namespace, where they cannot be opened again from what the index remembers.
            promote_above: Promote if the versions' overlap@10 over ``queries`` is at least this, 0 to 1.
            queries: Questions of your users; by default passages that the index holds are used.
            progress: As for `sync`.

        Raises:
            InvalidInput: A source must be given; or the serving version is of this recipe already.
            DiskFull: There is no room for a second version.
        """
        session, wanted = self._upgrading(recipe, encoder)
        opened = versions.sources_of(self._opened, _open_sources(sources))
        with session.catalog.writing(PATIENCE):
            record = versions.building(session, wanted)
        with progress_bar(progress) as on_progress:
            reports = versions.build(session, record.name, opened, on_progress)
        self._opened.adopt_encoders(session)
        comparison = None
        promoted = False
        if promote_above is not None:
            comparison = self.compare(record.name, queries=queries)
            if comparison.overlap >= promote_above:
                self.promote(record.name, sources=sources)
                promoted = True
        return UpgradeReport(record.name, tuple(reports), promoted, comparison)

    def compare(
        self, version: str, other: str | None = None, *, queries: Sequence[Query] = (), sample: int = 100
    ) -> Comparison:
        """How alike a version and the serving one (or an ``other``) answer.

        Args:
            version: Name of a version.
            other: Name of another one; by default the serving one.
            queries: Questions, or pairs of a question and the ids of the documents that answer it, for nDCG@10. By
                default passages are used, each as a question that should find its neighbours; itself left out.
            sample: How many passages.
        """
        session = self._opened
        first = other or session.catalog.serving()
        if first is None:
            raise NotReady("the index has no version yet; sync a source first")
        return compare(session, first, version, queries, sample)

    def promote(
        self,
        version: str,
        *,
        floor: float | None = None,
        max_delete: float | None = None,
        sources: Mapping[str, AnySource] | None = None,
    ) -> None:
        """Let a version serve from now on, in one step. The former one is kept for `rollback`.

        Args:
            version: Name of a version that was built by `upgrade`.
            floor: Refuse if its overlap@10 with the serving version is below this, 0 to 1.
            max_delete: Largest share of the served documents that it may lack. By default as for a sync, and none that
                are there and cannot be read.
            sources: By namespace, where they cannot be opened again.

        Raises:
            NotReady: It is not complete, is behind its sources, or is below the floor; the message says which.
            EncoderDrift: Its model makes other vectors than those it was built with.
        """
        session = self._opened
        with session.catalog.writing(PATIENCE):
            versions.require_ready(session, version, _open_sources(sources), max_delete)
            if floor is not None and (found := self.compare(version)).overlap < floor:
                raise NotReady(f"overlap@10 of {version} with {found.first} is {found.overlap:.3f}, below {floor}")
            versions.promote(session, version)

    def rollback(self) -> tuple[str, int]:
        """Let the version serve again that served before; its name, and how many documents it is behind (0: none).

        Raises:
            NotReady: No version has served before.
        """
        with self._opened.catalog.writing(PATIENCE):
            return versions.rollback(self._opened)

    def gc(self, *, keep: int = 1) -> list[str]:
        """Delete versions that neither serve nor are among the last ``keep`` that did; their names.

        An unfinished upgrade is kept, unless a version that was begun later serves. Vectors that bridges have made are
        deleted too, except those of an unfinished upgrade.
        """
        with self._opened.catalog.writing(PATIENCE):
            names = versions.garbage(self._opened, keep=keep)
            for name in names:
                self._opened.catalog.drop(name)
            self._opened.clear_cache()
            return names

    def adopt(self, encoder: DenseEncoder | None = None) -> str:
        """Take over an encoder of another identity that makes the same vectors, as its canaries show. Embeds nothing.

        Args:
            encoder: By default the one that the index was opened with.

        Raises:
            RecipeMismatch: It makes other vectors.
        """
        session = self._opened
        with session.catalog.writing(PATIENCE):
            return versions.adopt(session, encoder or session.new_encoder(session.recipe))

    # --- upkeep -------------------------------------------------------------------------------------------------------
    def verify(
        self,
        *,
        deep: bool = False,
        sample: int = 200,
        repair: bool = False,
        seed: int = 0,
        progress: AnyProgress = None,
    ) -> VerifyReport:
        """Compare ledger, chunks and vectors of the serving version.

        Every chunk is read: is it there, does it belong to a document, are its text and place what the ledger says?
        Searches go on meanwhile; syncs are refused.

        Args:
            deep: Embed a random sample of the chunks again and compare the vectors.
            sample: How many.
            repair: Remove what does not belong there, and sync the documents with something wrong from their source.
            seed: Of the sample.
            progress: As for `sync`.
        """
        session = self._opened
        with session.catalog.writing(session.patience()), progress_bar(progress) as on_progress:
            return verify(session, deep=deep, sample=sample, repair=repair, seed=seed, on_progress=on_progress)

    # --- parts --------------------------------------------------------------------------------------------------------
    @property
    def encoder(self) -> DenseEncoder:
        """The model of the serving version, or of the first one to be; loaded when first used."""
        with self._opened.catalog.reading() as version:
            if version is None:
                return self._opened.new_encoder(self._opened.recipe)
            return self._opened.encoder_for(version)

    @property
    def _opened(self) -> Session:
        if self._session is None:
            raise InvalidInput("this index is closed; open it again with Index.open")
        return self._session

    def _upgrading(self, recipe: IndexRecipe | None, encoder: DenseEncoder | None) -> tuple[Session, IndexRecipe]:
        """The session and recipe of an upgrade. Not the encoder that the index was opened with counts, but this one."""
        current = self._opened.recipe
        wanted = recipe or current
        if encoder is None and _same_model(wanted, current):
            encoder = self.encoder
        return self._opened.with_encoder(encoder), wanted


def _same_model(first: IndexRecipe, second: IndexRecipe) -> bool:
    settings = ("model", "document_prompt", "dimensions")
    return all(getattr(first, name) == getattr(second, name) for name in settings)


def _open_sources(sources: Mapping[str, AnySource] | None) -> dict[str, Source]:
    return {namespace: open_source(source) for namespace, source in (sources or {}).items()}

"""`Index`: open, plan, sync, search, upgrade. The door through which the rooms below are used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Event
from types import TracebackType
from typing import Any

from tarragon import bridging, updating
from tarragon.adapter import FLOOR
from tarragon.errors import InvalidInput
from tarragon.homes import open_catalog
from tarragon.progress import progress_bar
from tarragon.protocols import DenseEncoder, LateEncoder, SparseEncoder
from tarragon.recipe import IndexRecipe
from tarragon.reports import IndexStatus, Plan, SyncReport
from tarragon.searchable import SearchableIndex
from tarragon.session import Session
from tarragon.sources import DEFAULT_MAX_BYTES, open_source
from tarragon.status import catalog_status
from tarragon.updating import Scope
from tarragon.versioned import AnyProgress, AnySource
from tarragon.watching import watch


class Index(SearchableIndex):
    """Documents as searchable chunks, in a folder or on a Qdrant server. Made by `Index.open`; close it after use.

    Searching from several threads is fine, also while one of them syncs. One process at a time can have a folder open.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        recipe: IndexRecipe | None = None,
        device: str | None = None,
        encoder: DenseEncoder | Sequence[DenseEncoder] | None = None,
        sparse_encoder: SparseEncoder | None = None,
        late_encoder: LateEncoder | None = None,
        create: bool = True,
        api_key: str | None = None,
        server: Mapping[str, Any] | None = None,
    ) -> Index:
        """Open an index, or prepare a new one; nothing is written before the first sync.

        Args:
            path: A folder, by convention ``<name>.tarragon``, or a server's URL and a name:
                ``http://localhost:6333/handbook``.
            recipe: Settings of a new index; for an existing one they must be those it was built with. The default is
                the existing index's own, else `IndexRecipe()`.
            device: Where the model runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the best there is. A list
                such as ``cuda:0,cuda:1``, or ``all`` for every CUDA device, loads it on each of them.
            encoder: Your own, instead of the recipe's model. Several, if the index has versions of several.
            sparse_encoder: Your own learned sparse encoder, instead of the recipe's ``sparse_model``.
            late_encoder: Your own late-interaction encoder, instead of the recipe's ``late_model``.
            create: If False, a missing index is an error.
            api_key: Of the server. By default the environment's QDRANT_API_KEY.
            server: Options of the server, such as ``{"replication_factor": 2}``: see docs/server.md.

        Raises:
            IndexNotFound: There is none and ``create`` is False.
            NotAnIndex: The path holds something else.
            IndexLocked: Another process has it open.
            RecipeMismatch: It was built with other settings, or ``encoder`` makes other vectors; the message says what
                mending that costs.
        """
        encoders = () if encoder is None else encoder if isinstance(encoder, Sequence) else (encoder,)
        catalog = open_catalog(path, create=create, api_key=api_key, server=server)
        session = Session(
            catalog, recipe=recipe, encoders=encoders, device=device, sparse=sparse_encoder, late=late_encoder
        )
        try:
            session.check_opened()
        except BaseException:
            catalog.close()
            raise
        return cls(session)

    # --- writing ------------------------------------------------------------------------------------------------------
    def plan(
        self,
        source: AnySource,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
        namespace: str = "",
        prune: bool = True,
        max_delete: float | None = None,
        only: Sequence[str] = (),
    ) -> Plan:
        """What `sync` with the same arguments would do, why, and what it would cost. Writes nothing.

        The model is loaded only if there is something to chunk. Give the plan to `sync` to do exactly that.

        Raises:
            SourceNotFound: There is nothing at the path.
            RecipeMismatch: The model is not the one that the index was built with; the message says what to do.
        """
        documents = open_source(source, include=include, exclude=exclude, max_bytes=max_bytes)
        return updating.plan(self._opened, documents, Scope(namespace, prune, max_delete, only))

    def sync(
        self,
        source: AnySource,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
        namespace: str = "",
        prune: bool = True,
        max_delete: float | None = None,
        only: Sequence[str] = (),
        budget: int | None = None,
        plan: Plan | None = None,
        progress: AnyProgress = None,
    ) -> SyncReport:
        """Make the index hold what the source holds: add, change and delete, embedding only texts that are new.

        Can be interrupted at any point; running it again completes it. What fails is reported and stops nothing else.
        A search that runs meanwhile sees each document's old text or its new one, never both.

        Args:
            source: A folder, a JSONL file, another single file, or `Document` objects.
            include: Only files that match one of these globs, as in ``.gitignore``. All, if empty. Folders only.
            exclude: Not the files that match one of these.
            max_bytes: Larger files are reported as failed.
            namespace: Name of this source, where several are synced into one index: each only deletes its own.
            prune: Delete documents that the source no longer has.
            max_delete: Refuse to delete more than this share of the source's documents. By default a fifth, or ten
                documents if that is at most half of them.
            only: Patterns as in ``.gitignore`` on document ids; all other documents are left as they are.
            budget: Most tokens to embed. Documents that do not fit are left, and counted in ``documents_left``.
            plan: Do what this plan says, if what it was made from still holds.
            progress: A callback; True for a bar on stderr, False for none. By default a bar if stderr is a terminal.

        Raises:
            SourceNotFound: There is nothing at the path.
            EmptySource: The source has become empty.
            TooManyDeletions: More would be deleted than ``max_delete`` allows; nothing was written.
            PlanOutdated: Documents of ``plan`` have changed since, in the index or in the source; nothing was written.
            ModelNotFound: The model cannot be loaded.
            EncoderDrift: The model makes other vectors than those in the index, though it declares to be the same.
            DiskFull: No room to go on; what was done before is kept.
            IndexLocked: Another thread is syncing this index, or another process has made it meanwhile.
        """
        if budget is not None and budget < 0:
            raise InvalidInput(f"budget={budget} must not be negative", budget=budget)
        documents = open_source(source, include=include, exclude=exclude, max_bytes=max_bytes)
        scope = Scope(namespace, prune, max_delete, only)
        session = self._opened
        with session.catalog.writing(session.patience()), progress_bar(progress) as on_progress:
            return updating.sync(session, documents, scope, budget=budget, saved=plan, on_progress=on_progress)

    def delete(self, document_ids: Iterable[str], *, progress: AnyProgress = None) -> int:
        """Delete these documents; how many there were. Unknown ids are ignored.

        For documents that no source lists. One that its source still has comes back with the next `sync` of that.

        Args:
            document_ids: Which, whatever their namespace.
            progress: As for `sync`.

        Raises:
            IndexLocked: As for `sync`.
        """
        if isinstance(document_ids, str):
            raise InvalidInput(f"document_ids={document_ids!r} is a string; give a list of ids: [{document_ids!r}]")
        session = self._opened
        with session.catalog.writing(session.patience()), progress_bar(progress) as on_progress:
            return updating.delete(session, document_ids, on_progress)

    def watch(
        self, source: AnySource, *, interval: float = 2.0, stop: Event | None = None, **options: Any
    ) -> Iterator[SyncReport]:
        """Sync now and whenever the source changes, until ``stop`` is set; a report for each sync that did something.

        Looks every ``interval`` seconds, which works on every file system; an unchanged folder of 3,000 files is looked
        through in some 30 ms. A sync that is refused or fails is tried again after the next change.

        Args:
            source: A folder or a file.
            interval: Seconds between two looks.
            stop: Set it to end the watch.
            options: As for `sync`.
        """
        return watch(lambda: self.sync(source, **options), interval, stop or Event())

    def optimize(self, *, in_place: bool = False) -> bool:
        """Build the vector graph where it pays (over 10 MB of vectors) and free what deleted chunks took.

        Worth it after large syncs. A child process works on a copy, and searches do not wait; syncs are refused
        meanwhile. True if there was work.

        Args:
            in_place: Work on the serving files instead: needs no second copy, but other threads wait until it is done.
        """
        return self._opened.catalog.serving() is not None and self._opened.catalog.compact(in_place=in_place)

    # --- bridging -----------------------------------------------------------------------------------------------------
    def bridge(
        self,
        encoder: DenseEncoder,
        *,
        kind: bridging.BridgeKind = "rescore",
        pairs: int = bridging.PAIRS,
        depth: int = bridging.DEPTH,
        floor: float = FLOOR,
    ) -> bridging.Bridge:
        """Search the serving version with another model than its own, where its own cannot run any more.

        For the time before `upgrade` to that model has been run: answers are worse than either model's own, by how much
        is in docs/bridges.md. Open the index without an encoder for it. Passages embedded on the way are kept, so that
        the upgrade embeds so many fewer.

        Args:
            encoder: The new model.
            kind: ``rescore``: passages that share words with the question, scored again by the new model. ``adapter``:
                the question's vector, mapped into the old space.
            pairs: Passages to fit the adapter on; they are embedded now.
            depth: Passages that are scored again for a question, at least as many as are asked for.
            floor: Least overlap@10 of the adapter, 0 to 1.

        Raises:
            AdapterRefused: The adapter keeps too little; the message says what to do.
            IndexNotFound: Nothing has been synced yet.
            InvalidInput: The serving version is of this model.
        """
        return bridging.build(
            lambda: self._opened,
            encoder,
            self._answers.judged,
            kind=kind,
            pairs=pairs,
            depth=depth,
            floor=floor,
        )

    def status(self) -> IndexStatus:
        """What the index holds."""
        return catalog_status(self._opened.catalog)

    # --- parts --------------------------------------------------------------------------------------------------------
    @property
    def recipe(self) -> IndexRecipe:
        """The settings that the index is, or will be, built with."""
        return self._opened.recipe

    @property
    def location(self) -> str:
        """The path or URL, without secrets."""
        return self._opened.catalog.location

    # --- closing ------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Release the files, so that another process can open the index. Closing twice is fine."""
        if self._session is not None:
            self._session.catalog.close()
            self._session = None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

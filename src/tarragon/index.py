"""`Index`: open, sync, search. The door through which the rooms below are used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tarragon.chunking import Chunker
from tarragon.encoders.loading import load_encoder
from tarragon.errors import InvalidInput, RecipeMismatch
from tarragon.filters import parse
from tarragon.progress import progress_bar
from tarragon.protocols import DenseEncoder, Source
from tarragon.recipe import IndexRecipe, Mode, SearchRecipe
from tarragon.searching import build_request, embed_queries, search
from tarragon.sources import DEFAULT_MAX_BYTES, READER_REVISION, open_source
from tarragon.sources.formats import format_of
from tarragon.status import local_path, read_status, require_index
from tarragon.store.embedded import EmbeddedIndex, OpenVersion, attach
from tarragon.store.folder import Contract, VersionFolder
from tarragon.syncing import Sync, SyncOptions
from tarragon.types import Document, FloatArray, Hit, IndexStatus, Progress, SyncReport

DISK_MARGIN = 128 << 20
"""Free bytes that the engine needs for its log and new segments, beside the data itself."""

DISK_FACTOR = 4
"""Bytes on disk per byte of vectors and text: data, log, index and the copy while segments are merged."""


class Index:
    """A folder that holds documents as searchable chunks. Made by `Index.open`; close it, or use it with ``with``.

    Searching from several threads is fine, also while one of them syncs. One process at a time can have it open.
    """

    def __init__(
        self, embedded: EmbeddedIndex, *, recipe: IndexRecipe | None, encoder: DenseEncoder | None, device: str | None
    ) -> None:
        self._embedded: EmbeddedIndex | None = embedded
        self._wanted = recipe
        self._recipe = recipe or IndexRecipe()
        self._agreed = False
        self._device = device
        self._encoder = encoder
        self._checked: DenseEncoder | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        recipe: IndexRecipe | None = None,
        device: str | None = None,
        encoder: DenseEncoder | None = None,
        create: bool = True,
    ) -> Index:
        """Open the index at a folder, or prepare a new one; nothing is written before the first sync.

        Args:
            path: The folder, by convention ``<name>.tarragon``.
            recipe: Settings of a new index; for an existing one they must be those it was built with. The default is
                the existing index's own, else `IndexRecipe()`.
            device: Where the model runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the best there is.
            encoder: Your own, instead of the recipe's model.
            create: If False, a missing index is an error.

        Raises:
            IndexNotFound: There is none and ``create`` is False.
            NotAnIndex: The path holds something else.
            IndexLocked: Another process has it open.
            RecipeMismatch: It was built with other settings.
        """
        folder = local_path(path)
        if not create:
            require_index(folder)
        index = cls(attach(folder), recipe=recipe, encoder=encoder, device=device)
        try:
            index._agree(index._handle.folder.serving() if folder.exists() else None)
        except BaseException:
            index.close()
            raise
        return index

    # --- writing ------------------------------------------------------------------------------------------------------
    def sync(
        self,
        source: str | os.PathLike[str] | Iterable[Document] | Source,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
        namespace: str = "",
        prune: bool = True,
        max_delete: float | None = None,
        progress: bool | Callable[[Progress], None] | None = None,
    ) -> SyncReport:
        """Make the index hold what the source holds: add, change and delete, embedding only texts that are new.

        Can be interrupted at any point; running it again completes it. What fails is reported and stops nothing else.

        Args:
            source: A folder, a JSONL file, another single file, or `Document` objects.
            include: Only files that match one of these globs, as in ``.gitignore``. All, if empty. Folders only.
            exclude: Not the files that match one of these.
            max_bytes: Larger files are reported as failed.
            namespace: Name of this source, where several are synced into one index: each only deletes its own.
            prune: Delete documents that the source no longer has.
            max_delete: Refuse to delete more than this share of the source's documents. By default a fifth, or ten
                documents if that is at most half of them.
            progress: A callback; True for a bar on stderr, False for none. By default a bar if stderr is a terminal.

        Raises:
            SourceNotFound: There is nothing at the path.
            EmptySource: The source has become empty.
            TooManyDeletions: More would be deleted than ``max_delete`` allows; nothing was written.
            ModelNotFound: The model cannot be loaded.
            DiskFull: No room to go on; what was done before is kept.
            IndexLocked: Another thread is syncing this index, or another process has made it meanwhile.
        """
        if max_delete is not None and not 0 <= max_delete <= 1:
            raise InvalidInput(f"max_delete={max_delete} is a share between 0 and 1")
        documents = open_source(source, include=include, exclude=exclude, max_bytes=max_bytes)
        with self._handle.writing(), progress_bar(progress) as on_progress:
            version = self._writable()
            folder = self._handle.folder
            limit = min(self._recipe.chunk_tokens, self.encoder.max_tokens)
            return Sync(
                version.store,
                version.ledger,
                self.encoder,
                Chunker(self.encoder.tokenizer, limit, chunking=self._recipe.chunking),
                SyncOptions(namespace, prune, max_delete, format_of, reader=f"reader {READER_REVISION}"),
                before_write=lambda size: folder.require_room(DISK_MARGIN + DISK_FACTOR * size),
                on_progress=on_progress,
            ).run(documents)

    def optimize(self) -> bool:
        """Build the vector graph where it pays (over 10 MB of vectors) and free what deleted chunks took.

        Worth it after large syncs. Other threads of this process wait until it is done. True if there was work.
        """
        return self._version is not None and self._version.store.optimize()

    # --- reading ------------------------------------------------------------------------------------------------------
    def search(
        self,
        query: str,
        k: int = 5,
        *,
        filter: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
        recipe: SearchRecipe | None = None,
        vector: FloatArray | None = None,
    ) -> list[Hit]:
        """The ``k`` best passages for a question.

        Args:
            query: The question, or any words. A blank one finds nothing.
            k: How many at most; may be larger than the index.
            filter: On the documents' metadata, such as ``{"lang": "en", "year": {"$gte": 2020}}``: see
                `tarragon.filters`.
            mode: ``hybrid`` (default), ``dense`` or ``lexical``.
            recipe: All search settings; ``mode`` takes precedence.
            vector: The query's embedding, if it is known already, shape ``(dimensions,)``.

        Returns:
            Best first, equal scores in order of their chunk ids; empty for an empty index.

        Raises:
            InvalidFilter: The filter cannot be compiled; it is never ignored.
            RecipeMismatch: The model is not the one that the index was built with.
        """
        settings = _search_settings(recipe, mode)
        condition = parse(filter) if filter is not None else None
        if k < 0:
            raise InvalidInput(f"k={k} must not be negative", k=k)
        version = self._version
        if version is None or not query.strip() or k == 0:
            return []
        if settings.mode == "lexical":
            vector = None
        elif vector is not None:
            vector = _checked_vector(vector, version.contract.dimensions)
        else:
            vector = embed_queries(self._checked_encoder(version.contract), [query], settings)[0]
        return search(version.store, build_request(query, vector, k, condition, settings), k, settings)

    def status(self) -> IndexStatus:
        """What the index holds."""
        return read_status(self._handle.folder.path)

    # --- parts --------------------------------------------------------------------------------------------------------
    @property
    def recipe(self) -> IndexRecipe:
        """The settings that the index is, or will be, built with."""
        return self._recipe

    @property
    def encoder(self) -> DenseEncoder:
        """The model, loaded when first used."""
        if self._encoder is None:
            self._encoder = load_encoder(self._recipe, self._device)
        return self._encoder

    @property
    def _handle(self) -> EmbeddedIndex:
        if self._embedded is None:
            raise InvalidInput("this index is closed; open it again with Index.open")
        return self._embedded

    @property
    def _version(self) -> OpenVersion | None:
        version = self._handle.version
        self._agree(version.folder if version else None)  # it may have been made since, by another handle
        return version

    def _agree(self, version: VersionFolder | None) -> None:
        """Take over the settings of an existing version, or raise `RecipeMismatch`."""
        if version is not None and not self._agreed:
            self._recipe = _agreed(self._wanted, version.contract.recipe, self._handle.folder.path)
            self._agreed = True

    def _writable(self) -> OpenVersion:
        version = self._version or self._handle.create_version(Contract.of(self._recipe, self.encoder))
        self._agree(version.folder)  # another handle may have been first
        self._checked_encoder(version.contract)
        return version

    def _checked_encoder(self, contract: Contract) -> DenseEncoder:
        """The encoder, after making sure that it makes the vectors of this index's space."""
        if self.encoder is not self._checked:
            given = Contract.of(self._recipe, self.encoder)
            if given.fingerprint != contract.fingerprint:
                raise _other_space(contract, given)
            self._checked = self.encoder
        return self.encoder

    # --- closing ------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Release the files, so that another process can open the index. Closing twice is fine."""
        if self._embedded is not None:
            self._embedded.detach()
            self._embedded = None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _agreed(wanted: IndexRecipe | None, built: IndexRecipe, path: Path) -> IndexRecipe:
    """The recipe to use for an existing index: its own, with the model as named by the caller.

    Models are told apart by their fingerprint when they are loaded, not by name.
    """
    if wanted is None:
        return built
    old, new = built.to_dict(), wanted.to_dict()
    differing = [name for name in old if name != "model" and old[name] != new[name]]
    if differing:
        changes = "; ".join(f"{name} is {old[name]!r}, not {new[name]!r}" for name in differing)
        raise RecipeMismatch(
            f"{path} was built with other settings: {changes}. Leave the recipe out to use the index as it is, or "
            "sync a new index with the new recipe",
            path=path,
            differing=differing,
        )
    return wanted if wanted.model is not None else built


def _other_space(built: Contract, given: Contract) -> RecipeMismatch:
    names = {*built.identity, *given.identity}
    differing = sorted(name for name in names if built.identity.get(name) != given.identity.get(name))
    return RecipeMismatch(
        f"the index holds vectors of {built.model} ({built.fingerprint[:12]}), and {given.model} makes others "
        f"({given.fingerprint[:12]}); they differ in {', '.join(differing)}. Open it with the model it was built "
        "with, or sync a new index",
        built=built.fingerprint,
        given=given.fingerprint,
        differing=differing,
    )


def _checked_vector(vector: FloatArray, dimensions: int) -> FloatArray:
    row = np.asarray(vector, dtype=np.float32)
    if row.shape != (dimensions,) or not np.isfinite(row).all():
        raise InvalidInput(f"a query vector has {dimensions} finite numbers here, not shape {row.shape}: {row!r:.80}")
    return row


def _search_settings(recipe: SearchRecipe | None, mode: Mode | None) -> SearchRecipe:
    settings = recipe or SearchRecipe()
    return settings if mode is None else replace(settings, mode=mode)

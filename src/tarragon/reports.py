"""What the operations on an index tell: frozen values, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Change: TypeAlias = Literal["new", "content", "parser", "chunker", "model", "metadata", "moved", "unfinished", "failed"]
"""Why a sync writes a document, or, if it failed, why it does not."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that could not be indexed, and why. Its previous text, if there is one, keeps being served."""

    document_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did.

    Each document of the source is added, changed, unchanged or failed, and the ones that are gone are deleted. Of two
    documents with one id the second fails.

    Attributes:
        documents_left: Not written because ``budget`` was used up; the next sync goes on with them.
        chunks_embedded: Distinct new texts that the model was run on.
        chunks_reused: Chunks of added and changed documents whose vector was already there.
        chunks_deleted: Chunks removed, of changed and deleted documents.
        characters_embedded: Characters of the embedded texts.
        tokens_embedded: Tokens the model was given, prompts and special tokens included, padding not.
        tokens_truncated: Tokens of embedded texts beyond the model's limit, which it did not see.
        seconds: Wall time of the whole sync.
        files_skipped: What the source left out on purpose, by reason.
        failures: The failed documents in the order in which they were met.
        model: Name of the model.
        device: The device that really ran it; empty where nothing was embedded.
        version: The version of the index that this speaks of.
        others: The same for the other versions that were brought up to date: those being built, and those kept for
            `Index.rollback`.
        behind: Versions that were not, by name: why.
    """

    documents_added: int = 0
    documents_changed: int = 0
    documents_unchanged: int = 0
    documents_deleted: int = 0
    documents_failed: int = 0
    documents_left: int = 0
    chunks_embedded: int = 0
    chunks_reused: int = 0
    chunks_deleted: int = 0
    characters_embedded: int = 0
    tokens_embedded: int = 0
    tokens_truncated: int = 0
    seconds: float = 0.0
    files_skipped: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    model: str = ""
    device: str = ""
    version: str = ""
    others: tuple[SyncReport, ...] = ()
    behind: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """A document that a sync would write or delete, or cannot read.

    Attributes:
        document_id: The document.
        change: Why: ``new``; its ``content``, ``parser``, ``chunker``, ``model`` or ``metadata`` changed; ``moved``
            from another id with the same content; ``unfinished``: its last rewrite was interrupted; ``failed``: it
            cannot be read, and what it had before keeps being served.
        chunks: Chunks it will have.
        embed: Of these, distinct texts that no earlier document of this plan embeds and that are nowhere in the index.
        tokens: Of these texts.
        moved_from: Its former id, if it moved.
        reason: Why it cannot be read.
        base: Digest of what the index has of it now; empty for nothing.
        wanted: Digest of what the source has of it now; empty for nothing.
    """

    document_id: str
    change: Change
    chunks: int = 0
    embed: int = 0
    tokens: int = 0
    moved_from: str = ""
    reason: str = ""
    base: str = ""
    wanted: str = ""


@dataclass(frozen=True, slots=True)
class PlannedDeletion:
    """A document that a sync would delete.

    Attributes:
        document_id: The document.
        chunks: Chunks it has.
        base: Digest of what the index has of it now.
    """

    document_id: str
    chunks: int
    base: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sync would do, and what it would cost. Made by `Index.plan`, which writes nothing.

    Attributes:
        path: The index.
        version: The version that it is about; empty if there is none yet.
        model: Name of the model.
        fingerprint: Of its space.
        namespace: Of the source.
        documents: Documents of the source.
        by_stat: Of these, known to be unchanged without being read.
        hashed: Of these, read.
        changes: What would be written, and what cannot be read, in the order of the source.
        deletions: What would be deleted, by id.
        foreign: Documents of other namespaces, which are not touched.
        orphans: Stored chunks that no document owns; `Index.verify` finds and removes them.
        embeddings: Texts to embed.
        tokens: Of these texts, prompts and special tokens not counted.
        seconds: Estimated time for these from this machine's own rate.
        canaries: What the model's canaries say; empty where nothing is to be embedded.
        blocked: Why a sync would be refused; empty if it would not.
        bytes: Estimated disk for the new chunks.
    """

    path: str
    version: str
    model: str
    fingerprint: str
    namespace: str
    documents: int = 0
    by_stat: int = 0
    hashed: int = 0
    changes: tuple[PlannedDocument, ...] = ()
    deletions: tuple[PlannedDeletion, ...] = ()
    foreign: int = 0
    orphans: int = 0
    embeddings: int = 0
    tokens: int = 0
    seconds: float = 0.0
    canaries: str = ""
    blocked: str = ""
    bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether a sync would write nothing. What cannot be read is no change."""
        return not self.deletions and all(change.change == "failed" for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Read `to_dict`."""
        changes = tuple(PlannedDocument(**change) for change in values["changes"])
        deletions = tuple(PlannedDeletion(**deletion) for deletion in values["deletions"])
        return cls(**{**values, "changes": changes, "deletions": deletions})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sync has come. Passed to the callback after each step.

    Attributes:
        documents: Documents looked at so far.
        documents_total: All documents of the source; None while it is not known.
        chunks_embedded: Chunks embedded so far.
        tokens_embedded: Tokens embedded so far.
        seconds: Since the start.
    """

    documents: int
    documents_total: int | None
    chunks_embedded: int
    tokens_embedded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What an index holds.

    Attributes:
        path: Where it is.
        version: The version that serves; empty before the first sync.
        documents: Documents that can be found.
        chunks: Their chunks.
        failures: Documents whose last sync failed.
        unfinished: Documents whose rewrite was interrupted; the next sync completes them.
        model: Name of the model that made the vectors.
        fingerprint: What identifies the space of these vectors.
        dimensions: Length of a vector.
        recipe: What is baked into the stored data.
        bytes: Size on disk.
    """

    path: str
    version: str = ""
    documents: int = 0
    chunks: int = 0
    failures: tuple[Failure, ...] = ()
    unfinished: int = 0
    model: str = ""
    fingerprint: str = ""
    dimensions: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of an index.

    Attributes:
        name: Such as ``v2``.
        role: ``serving``; ``standby``: kept up to date for a rollback; ``building``: being filled by an upgrade;
            ``retired``: syncs leave it behind.
        model: Name of the model that makes its vectors.
        fingerprint: What identifies their space.
        dimensions: Length of a vector.
        recipe: What is baked into the stored data.
        documents: Documents that it holds.
        chunks: Their chunks.
        unfinished: Documents whose rewrite was interrupted.
        created: Unix time.
        bytes: Size on disk; 0 where that cannot be known.
    """

    name: str
    role: str
    model: str
    fingerprint: str
    dimensions: int
    recipe: Mapping[str, Any]
    documents: int
    chunks: int
    unfinished: int
    created: float
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did.

    Attributes:
        version: The version that was built.
        syncs: What was done for each namespace.
        promoted: Whether it serves now.
        comparison: With the version that served, if one was asked for.
    """

    version: str
    syncs: tuple[SyncReport, ...]
    promoted: bool
    comparison: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two versions answer the same queries.

    Attributes:
        first: Name of one version.
        second: Of the other.
        queries: How many were asked.
        unit: What was compared: ``chunk`` where both cut alike, else ``document``.
        overlap: Mean share of the first's ten best that are among the second's ten best, 0 to 1.
        rank_change: Mean absolute change of rank of those that both have.
        worst: The queries with the least overlap: text and overlap, least first.
        ndcg: nDCG@10 of both, where the queries are labelled.
        difference: Of these, second minus first: mean, and its 95 % interval by bootstrap over the queries.
    """

    first: str
    second: str
    queries: int
    unit: Literal["chunk", "document"]
    overlap: float
    rank_change: float
    worst: tuple[tuple[str, float], ...] = ()
    ndcg: tuple[float, float] | None = None
    difference: tuple[float, float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found in the serving version.

    Attributes:
        version: Its name.
        documents: Documents in the ledger.
        chunks: Chunks in the ledger.
        vectors_checked: Chunks whose text was embedded again.
        orphans: Stored chunks that no document owns.
        missing: Chunks of documents that are not stored.
        wrong_payloads: Stored chunks whose place or metadata is not what the ledger says.
        wrong_texts: Stored chunks whose text is not what the ledger says.
        wrong_vectors: Stored chunks whose vector is not what the model makes of their text.
        unfinished: Documents whose rewrite was interrupted.
        incomplete: Stored chunks that have no vector in a space beside the dense one.
        affected: Ids of the documents with something wrong.
        repaired: Whether it was mended.
        unrepaired: Documents that could not be, because their source cannot be read.
    """

    version: str
    documents: int
    chunks: int
    vectors_checked: int
    orphans: int
    missing: int
    wrong_payloads: int
    wrong_texts: int
    wrong_vectors: int
    unfinished: int
    incomplete: int
    affected: tuple[str, ...]
    repaired: bool
    unrepaired: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found, or everything was mended."""
        return not self.unrepaired and (self.repaired or not (self.orphans or self.affected))

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy of an index holds, and how it answers.

    Attributes:
        source: The original.
        target: The copy.
        documents: Documents in both.
        chunks: Their chunks.
        queries: Passages that both were asked for.
        overlap: Mean overlap of the ten best, 0 to 1.
    """

    source: str
    target: str
    documents: int
    chunks: int
    queries: int
    overlap: float

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


def duration(seconds: float) -> str:
    """For people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"

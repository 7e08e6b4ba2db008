"""Plan and sync of an open index: every version that is to be kept up to date, the serving one first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from unicodedata import normalize

from tarragon.canaries import CanaryVerdict
from tarragon.contract import VersionRecord
from tarragon.errors import (
    EncoderDrift,
    InvalidInput,
    MissingDependency,
    ModelProblem,
    NotReady,
    PlanOutdated,
    RecipeMismatch,
    TooManyDeletions,
)
from tarragon.measures import measured_rate, rate_of, remember_rate
from tarragon.patterns import matcher
from tarragon.planning import outdated
from tarragon.plans import NoVersion, make_plan
from tarragon.preparing import Writer
from tarragon.protocols import FindableSource, OpenVersion, Source, SourceItem
from tarragon.recipe import IndexRecipe
from tarragon.reports import Change, Plan, Progress, SyncReport
from tarragon.session import Session
from tarragon.sides import FEWEST
from tarragon.sources import DocumentsSource
from tarragon.survey import SurveyOptions, records_of
from tarragon.syncing import Budget, Sync

BYTES_PER_CHUNK = 3_000
"""On disk, beside its vector, where an index is too small to tell: text, words, payload (docs/cluster.md)."""

FEW_CHUNKS = 1_000
"""Fewer do not tell how much disk a chunk takes."""

Callback: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which documents a sync or a plan is about.

    Attributes:
        namespace: Of the source.
        prune: Delete documents that the source no longer has.
        max_delete: Largest share of the documents that may be deleted.
        only: Patterns as in a ``.gitignore``; other documents are left as they are. Empty: all.
        ids: The same by exact ids. None: all.
    """

    namespace: str = ""
    prune: bool = True
    max_delete: float | None = None
    only: Sequence[str] = ()
    ids: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.max_delete is not None and not 0 <= self.max_delete <= 1:
            raise InvalidInput(f"max_delete={self.max_delete} is a share between 0 and 1")
        if isinstance(self.only, str):
            raise InvalidInput(f"only={self.only!r} is a string; give a list of patterns: [{self.only!r}]")

    def options(self, session: Session, version: OpenVersion, also: Callable[[str], bool] | None) -> SurveyOptions:
        """The same for a version, narrowed by ``also``."""
        matching = matcher(self.only) if self.ids is None else self.ids.__contains__
        if matching is not None and also is not None:
            only: Callable[[str], bool] | None = lambda id_: matching(id_) and also(id_)  # noqa: E731
        else:
            only = matching or also
        contract = version.record.contract
        return session.options(
            contract, self.namespace, prune=self.prune, max_delete=self.max_delete, only=only, ids=self.ids
        )


# --- sync -------------------------------------------------------------------------------------------------------------
def sync(
    session: Session,
    source: Source,
    scope: Scope,
    *,
    budget: int | None = None,
    saved: Plan | None = None,
    on_progress: Callback,
) -> SyncReport:
    """Bring every version up to date with a source. The caller holds the catalog's `writing`.

    The first sync makes the first version. A version that is being built follows in what changed now; a complete one
    that is kept for rollback follows in everything.

    Raises:
        PlanOutdated: ``saved`` does not hold any more.
    """
    listed = ListedSource(source)  # so that every version sees the same
    also = None
    if saved is not None:
        also = _planned(session, listed, scope, saved)
        scope = replace(scope, max_delete=1.0)  # what the plan deletes was looked at as a whole
    serving = session.catalog.serving()
    if serving is None:
        encoder = session.new_encoder(session.recipe)
        serving = session.create(session.recipe, encoder, serve=True).name
    spend = None if budget is None else Budget(budget)
    report, touched = sync_version(session, serving, listed, scope, budget=spend, also=also, on_progress=on_progress)
    _remember(session, serving, source, scope)
    others: list[SyncReport] = []
    behind: dict[str, str] = {}
    for record in session.catalog.versions():
        role = record.role(serving)
        if role not in ("standby", "building"):
            continue
        narrowed = also if role == "standby" or scope.ids is not None else touched.__contains__
        try:
            other, _ = sync_version(
                session,
                record.name,
                listed,
                replace(scope, max_delete=1.0),
                budget=spend,
                also=narrowed,
                on_progress=on_progress,
            )
        except (ModelProblem, RecipeMismatch, MissingDependency) as error:
            behind[record.name] = str(error)
        else:
            others.append(other)
            _remember(session, record.name, source, scope)
    return replace(report, others=tuple(others), behind=behind)


def sync_version(
    session: Session,
    name: str,
    source: Source,
    scope: Scope,
    *,
    budget: Budget | None = None,
    also: Callable[[str], bool] | None = None,
    on_progress: Callback,
) -> tuple[SyncReport, set[str]]:
    """Bring one version up to date; also the ids of the documents that were written or deleted."""
    with (
        session.reading(name) as version,
        session.donors(version) as donors,
        session.computing() as compute,
    ):
        if name == session.catalog.serving():
            session.check_named(version)
        run = Sync(
            session.writer(version, donors, compute),
            scope.options(session, version, also),
            budget=budget,
            on_progress=on_progress,
        )
        report = run.run(source)
        remember_rate(version.ledger, run.rate)
        if run.touched or _lacks_statistics(version):
            session.measures.refresh(name)
        return replace(report, model=version.record.contract.model, version=name), run.touched


def _lacks_statistics(version: OpenVersion) -> bool:
    """Whether it was made by a release that kept none, or a sync was killed before it did."""
    return not version.record.statistics and version.ledger.counts().chunks >= FEWEST


def _remember(session: Session, name: str, source: Source, scope: Scope) -> None:
    """Keep where the source of a namespace is. A sync of only some documents says nothing of that."""
    if not scope.only and scope.ids is None:
        with session.reading(name) as version:
            session.origins.remember(version.ledger, scope.namespace, source, whole=scope.prune)


def refresh(session: Session, name: str, documents: Mapping[str, Iterable[str]], on_progress: Callback) -> None:
    """Sync just these documents, by namespace, into the serving version; nothing is deleted."""
    with session.reading(name) as version:
        sources = {namespace: session.origins.source(version.ledger, namespace)[0] for namespace in documents}
    for namespace, source in sources.items():
        if source is not None:
            ids = frozenset(documents[namespace])
            picked = PickedSource(source, sorted(ids))
            scope = Scope(namespace, prune=False, ids=ids)
            sync_version(session, name, picked, scope, on_progress=on_progress)


def delete(session: Session, document_ids: Iterable[str], on_progress: Callback) -> int:
    """Delete documents from every version that follows its sources; how many there were. Unknown ids are ignored."""
    wanted = {normalize("NFC", document_id) for document_id in document_ids}
    if session.catalog.serving() is None:
        return 0
    of_namespace: dict[str, set[str]] = {}
    for name in _following(session):  # all of them: a deletion that was interrupted may have reached only the first
        with session.reading(name) as version:
            records = records_of(version.ledger, wanted)
        for id_ in wanted & records.keys():
            of_namespace.setdefault(records[id_].namespace, set()).add(id_)
    for namespace, ids in sorted(of_namespace.items()):
        scope = Scope(namespace, max_delete=1.0, ids=frozenset(ids))
        report = sync(session, DocumentsSource(()), scope, on_progress=on_progress)
        if report.behind:
            told = "; ".join(f"{name}: {reason}" for name, reason in report.behind.items())
            raise NotReady(f"the documents are deleted from the serving version, but not from all others: {told}")
    return sum(map(len, of_namespace.values()))


def _following(session: Session) -> list[str]:
    """The serving version and those that follow its sources."""
    serving = session.catalog.serving()
    return [record.name for record in session.catalog.versions() if record.role(serving) != "retired"]


class ListedSource:
    """A source that is listed once, however often it is gone through.

    Args:
        source: The source.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._items: tuple[SourceItem, ...] | None = None

    def items(self) -> Iterator[SourceItem]:
        """See `tarragon.protocols.Source`."""
        if self._items is None:
            self._items = tuple(self._source.items())
        return iter(self._items)

    def skipped(self) -> Mapping[str, int]:
        """See `tarragon.protocols.Source`."""
        return self._source.skipped()


class PickedSource:
    """Some documents of a source; those that it does not have are not listed.

    Args:
        source: The source.
        document_ids: Which.
    """

    def __init__(self, source: FindableSource, document_ids: Iterable[str]) -> None:
        self._source = source
        self._ids = tuple(document_ids)

    def items(self) -> Iterator[SourceItem]:
        """See `tarragon.protocols.Source`."""
        return (item for item in map(self._source.find, self._ids) if item is not None)

    def skipped(self) -> Mapping[str, int]:
        """See `tarragon.protocols.Source`."""
        return {}


# --- plan -------------------------------------------------------------------------------------------------------------
def plan(session: Session, source: Source, scope: Scope, *, canaries: bool = True) -> Plan:
    """What a sync of the serving version would do; of a new index, what the first one would."""
    serving = session.catalog.serving()
    if serving is None:
        return plan_new(session, source, scope, session.recipe)
    with session.reading(serving) as version, session.donors(version) as donors:
        session.check_named(version)
        writer = session.writer(version, donors)
        found = make_plan(
            source,
            writer,
            scope.options(session, version, None),
            header=_header(session, version.record, scope.namespace),
            explain=None,
        )
        return _with_cost(session, version, writer, found) if canaries else found


def plan_new(
    session: Session,
    source: Source,
    scope: Scope,
    recipe: IndexRecipe,
    explain: Callable[[str], Change] | None = None,
) -> Plan:
    """What building a version of this recipe from a source would take; nothing is made."""
    encoder = session.new_encoder(recipe)
    contract = session.contract_of(recipe, encoder)
    record = VersionRecord("", contract)
    with session.same_space(contract.fingerprint) as donors:
        nothing: Any = NoVersion()  # it answers all that is asked of a version here
        writer = Writer(nothing, lambda: encoder, (recipe.chunking, contract.limit), donors=donors)
        options = session.options(contract, scope.namespace, only=matcher(scope.only))
        header = _header(session, record, scope.namespace)
        found = make_plan(source, writer, options, header=header, explain=explain)
    rate = measured_rate(encoder)
    size = found.embeddings * (4 * contract.dimensions + BYTES_PER_CHUNK)
    return replace(found, seconds=found.tokens / rate, bytes=size)


def _planned(session: Session, source: Source, scope: Scope, saved: Plan) -> Callable[[str], bool]:
    """Which documents a saved plan is about, after making sure that it still holds."""
    now = plan(session, source, scope, canaries=False)
    for name in ("version", "fingerprint", "namespace"):
        if getattr(saved, name) != getattr(now, name):
            raise PlanOutdated(
                f"the plan is for {name} {getattr(saved, name)!r}, and the index has {getattr(now, name)!r} now; "
                "make a new plan",
            )
    if moved := outdated(saved, now):
        shown = ", ".join(moved[:10]) + (f" and {len(moved) - 10} more" if len(moved) > 10 else "")
        raise PlanOutdated(
            f"{len(moved)} documents have changed since the plan was made: {shown}. Nothing was written; plan again",
            documents=moved,
        )
    if now.blocked:
        raise TooManyDeletions(now.blocked)
    ids = {change.document_id for change in saved.changes} | {gone.document_id for gone in saved.deletions}
    return ids.__contains__


def _header(session: Session, record: VersionRecord, namespace: str) -> Plan:
    contract = record.contract
    return Plan(session.catalog.location, record.name, contract.model, contract.fingerprint, namespace)


def _with_cost(session: Session, version: OpenVersion, writer: Writer, found: Plan) -> Plan:
    """The plan with time, disk and the canaries' word, if there is anything to embed."""
    if not found.embeddings:
        return found
    encoder = writer.encoder
    rate = rate_of(version.ledger) or measured_rate(encoder)
    size = found.embeddings * bytes_per_chunk(session, version)
    found = replace(found, seconds=found.tokens / rate, bytes=size)
    verdict: CanaryVerdict | None = session.canary_verdict(version, encoder)
    if verdict is None:
        return found
    found = replace(found, canaries=verdict.sentence())
    if verdict.verdict == "different":
        try:
            session.trusted_encoder(version, again=True)
        except EncoderDrift as error:
            return replace(found, blocked=str(error))
    return found


def bytes_per_chunk(session: Session, version: OpenVersion) -> int:
    """Disk that a chunk takes, measured on the index where it is large enough."""
    chunks = version.ledger.counts().chunks
    if chunks >= FEW_CHUNKS and (size := session.catalog.size(version.record.name)):
        return size // chunks
    return 4 * version.record.contract.dimensions + BYTES_PER_CHUNK

"""Versions: an upgrade is the same sync into another version, then one pointer moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tarragon import canaries
from tarragon.contract import VersionRecord
from tarragon.errors import InvalidInput, NotReady, RecipeMismatch
from tarragon.identity import DocumentState
from tarragon.planning import exceeds
from tarragon.plans import make_plan
from tarragon.protocols import DenseEncoder, OpenVersion, Source
from tarragon.recipe import IndexRecipe
from tarragon.reports import Change, Plan, SyncReport, VersionInfo
from tarragon.session import Session, same_canaries
from tarragon.syncing import Budget
from tarragon.updating import Callback, Scope, plan_new, sync_version

SLICE_TOKENS = 50_000
"""Tokens of an upgrade between two moments at which a sync may come in: some 6 s of a small model on two cores."""

KEPT = 1
"""Former versions that syncs keep up to date after a promotion, so that a rollback is one step."""


def infos(session: Session) -> list[VersionInfo]:
    """Every version, oldest first."""
    serving = session.catalog.serving()
    found = []
    for record in session.catalog.versions():
        with session.reading(record.name) as version:
            counts = version.ledger.counts()
        contract = record.contract
        found.append(
            VersionInfo(
                name=record.name,
                role=record.role(serving),
                model=contract.model,
                fingerprint=contract.fingerprint,
                dimensions=contract.dimensions,
                recipe=contract.recipe.to_dict(),
                documents=counts.documents,
                chunks=counts.chunks,
                unfinished=counts.unfinished,
                created=record.created,
                bytes=session.catalog.size(record.name),
            )
        )
    return found


# --- building ---------------------------------------------------------------------------------------------------------
def sources_of(session: Session, given: Mapping[str, Source]) -> dict[str, Source]:
    """A source for each namespace of the serving version: the caller's own, or the one it was synced from.

    Raises:
        InvalidInput: One of them cannot be opened again and was not given.
    """
    with session.reading() as version:
        sources: dict[str, Source] = {}
        known = sorted(version.ledger.namespaces())
        if unknown := sorted(set(given).difference(known)):
            raise InvalidInput(f"no documents of namespace {unknown[0]!r}; there are {known}", namespace=unknown[0])
        for namespace in known:
            source = given.get(namespace) or session.origins.whole_source(version.ledger, namespace)
            if source is None:
                raise InvalidInput(
                    f"the documents of namespace {namespace!r} came from a source that cannot be opened again, or from "
                    "several; "
                    f"give it: sources={{{namespace!r}: ...}}",
                    namespace=namespace,
                )
            sources[namespace] = source
        return sources


def plan_upgrade(session: Session, recipe: IndexRecipe, sources: Mapping[str, Source]) -> list[Plan]:
    """What a version of another recipe would take, a plan for each namespace; nothing is made."""
    with session.reading() as version:
        known = version.ledger.documents()
        contract = session.contract_of(recipe, session.new_encoder(recipe))
        change: Change = "model" if contract.fingerprint != version.record.contract.fingerprint else "chunker"
    return [
        plan_new(session, source, Scope(namespace), recipe, lambda id_: change if id_ in known else "new")
        for namespace, source in sources.items()
    ]


def building(session: Session, recipe: IndexRecipe) -> VersionRecord:
    """The version that an upgrade to this recipe fills: one that was begun already, or a new one.

    Raises:
        InvalidInput: The serving version is of this recipe already.
    """
    encoder = session.new_encoder(recipe)
    contract = session.contract_of(recipe, encoder)
    serving = session.catalog.serving()
    alike = [
        record
        for record in session.catalog.versions()
        if (record.contract.fingerprints, record.contract.recipe) == (contract.fingerprints, contract.recipe)
    ]
    probes = canaries.pack(canaries.run(encoder)) if alike else ""
    for record in alike:
        if not same_canaries(record.canaries, probes):
            continue  # the same declaration, but its runtime made other vectors: not to be mixed with
        if record.name == serving:
            raise InvalidInput(
                f"{serving} serves already with this recipe and model; sync keeps it up to date", name=serving
            )
        if record.role(serving) == "building":
            return record
    return session.create(recipe, encoder, serve=False)


def build(session: Session, name: str, sources: Mapping[str, Source], on_progress: Callback) -> list[SyncReport]:
    """Fill a version, in slices between which syncs may come in; a report for each namespace.

    Interrupted, it goes on where it stopped: documents that are done are not done again.
    """
    reports = []
    for namespace, source in sources.items():
        parts: list[SyncReport] = []
        while not parts or parts[-1].documents_left:
            with session.catalog.writing(wait=3_600):
                part, _ = sync_version(
                    session,
                    name,
                    source,
                    Scope(namespace, max_delete=1.0),
                    budget=Budget(_slice(parts), then_stop=True),
                    on_progress=on_progress,
                )
            parts.append(part)
        with session.reading(name) as version:
            session.origins.remember(version.ledger, namespace, source, whole=True)
        reports.append(_joined(parts))
    return reports


def _slice(parts: Sequence[SyncReport]) -> int:
    """Larger after a slice in which no document fitted, so that the largest one is built too."""
    stuck = 0
    while stuck < len(parts) and not parts[-1 - stuck].chunks_embedded:
        stuck += 1
    return SLICE_TOKENS * int(4**stuck)


_ADDED = (
    "documents_added",
    "documents_changed",
    "documents_deleted",
    "chunks_embedded",
    "chunks_reused",
    "chunks_deleted",
    "characters_embedded",
    "tokens_embedded",
    "tokens_truncated",
)


def _joined(parts: Sequence[SyncReport]) -> SyncReport:
    """One report of several slices: what was done is added, what was found is as the last one found it."""
    sums = {name: sum(getattr(part, name) for part in parts) for name in _ADDED}
    device = next((part.device for part in parts if part.device), "")
    return replace(parts[-1], **sums, device=device, seconds=sum(part.seconds for part in parts))


# --- serving ----------------------------------------------------------------------------------------------------------
def require_ready(session: Session, name: str, given: Mapping[str, Source], max_delete: float | None) -> None:
    """Make sure that a version can serve: whole, as new as its sources, and with the model that built it.

    Documents that only the serving version has must be few, as for a sync, and gone: not just unreadable.

    Raises:
        NotReady: It cannot; the message says what is missing.
        EncoderDrift: Its model makes other vectors now.
    """
    with session.reading() as serving, session.reading(name) as version:
        _ = session.trusted_encoder(version, again=True)
        if unfinished := version.ledger.counts().unfinished:
            raise NotReady(f"{name} is not complete: {unfinished} documents were interrupted; run the upgrade again")
        if stored := version.store.count() - version.ledger.counts().chunks:
            raise NotReady(f"{name} has {stored} chunks more than its ledger says; verify it with repair first")
        sources = {
            namespace: given.get(namespace) or session.origins.whole_source(version.ledger, namespace)
            for namespace in session.origins.namespaces(serving.ledger, version.ledger)
        }
        unknown = {namespace for namespace, source in sources.items() if source is None}
        if missing := _behind(serving, version, unknown):
            shown = ", ".join(missing[:5])
            raise NotReady(
                f"{name} is behind by {len(missing)} documents ({shown}{', ...' if len(missing) > 5 else ''}); "
                "run the upgrade again",
                documents=missing,
            )
        unreadable: set[str] = set()
        for namespace, source in sources.items():
            if source is not None:
                failed = _require_empty_plan(session, version, namespace, source)
                _require_same_text(serving, version, failed)
                unreadable.update(failed)
        _require_no_loss(serving, version, unreadable, max_delete)


def _require_same_text(serving: OpenVersion, version: OpenVersion, failed: Collection[str]) -> None:
    """Documents that cannot be read now must be served as they are: their last text, not an older one."""
    now, then = _contents(serving, None), _contents(version, None)
    if older := sorted(id_ for id_ in failed if id_ in then and id_ in now and then[id_] != now[id_]):
        raise NotReady(
            f"{version.record.name} has another text of {len(older)} documents that cannot be read now "
            f"({', '.join(older[:5])}); mend the source and run the upgrade again",
            documents=older,
        )


def _require_no_loss(
    serving: OpenVersion, version: OpenVersion, unreadable: Collection[str], max_delete: float | None
) -> None:
    served, has = _contents(serving, None), version.ledger.documents()
    lost = sorted(id_ for id_ in served if id_ not in has or has[id_].state is None)
    failed = [id_ for id_ in lost if id_ in has or id_ in unreadable]
    way_out = "Mend the source and run the upgrade again, or allow it with max_delete (--max-delete)"
    if failed and max_delete is None:
        raise NotReady(
            f"{version.record.name} could not read {len(failed)} documents that are served now "
            f"({', '.join(failed[:5])}). {way_out}",
            documents=failed,
        )
    if exceeds(len(lost), len(served), max_delete):
        raise NotReady(
            f"{version.record.name} lacks {len(lost)} of the {len(served)} documents that are served now "
            f"({', '.join(lost[:5])}). {way_out}",
            documents=lost,
        )


def _require_empty_plan(session: Session, version: OpenVersion, namespace: str, source: Source) -> list[str]:
    """The documents that cannot be read."""
    contract = version.record.contract
    header = Plan("", version.record.name, contract.model, contract.fingerprint, namespace)
    found = make_plan(
        source, session.writer(version), session.options(contract, namespace), header=header, explain=None
    )
    if not found.is_empty:
        changes = [change.document_id for change in found.changes] + [gone.document_id for gone in found.deletions]
        raise NotReady(
            f"{version.record.name} is behind its source by {len(changes)} documents ({', '.join(changes[:5])}); "
            "sync, or run the upgrade again",
            documents=changes,
        )
    return [change.document_id for change in found.changes]


def _behind(serving: OpenVersion, version: OpenVersion, among: Collection[str] | None = None) -> list[str]:
    """Documents of these namespaces (None: all) of which the two have other content, or that only one of them has."""
    now, then = _contents(serving, among), _contents(version, among)
    return sorted(id_ for id_ in {*now, *then} if now.get(id_) != then.get(id_))


def _contents(version: OpenVersion, among: Collection[str] | None) -> dict[str, bytes]:
    records = version.ledger.documents().values()
    states = {
        record.document_id: record.state
        for record in records
        if record.state and (among is None or record.namespace in among)
    }
    return {id_: b"".join(DocumentState.unpack(state)[:2]) for id_, state in states.items()}


def promote(session: Session, name: str) -> None:
    """Let a version serve. The one that served is kept up to date for a rollback, older ones are not any more."""
    record = session.record(name)
    serving = session.catalog.serving()
    if name == serving:
        return
    former = [other for other in session.catalog.former() if other != name]
    former += [serving] if serving is not None else []
    session.catalog.update(replace(record, promoted=True, retired=False))
    session.catalog.point_to(name, former=former)
    session.forget_wanted()
    _retire(session, former[:-KEPT])


def rollback(session: Session) -> tuple[str, int]:
    """Let the former version serve again; its name, and how many documents it is behind.

    Raises:
        NotReady: There is no former version.
    """
    former = session.catalog.former()
    serving = session.catalog.serving()
    if not former or serving is None:
        raise NotReady("no version has served before this one; there is nothing to go back to")
    with session.reading(former[-1]) as then, session.reading(serving) as now:
        behind = len(_behind(now, then))
    record = session.record(former[-1])
    if record.retired:
        session.catalog.update(replace(record, retired=False))
    session.catalog.point_to(record.name, former=former[:-1])
    session.forget_wanted()
    return record.name, behind


def _retire(session: Session, names: Sequence[str]) -> None:
    for name in names:
        session.catalog.update(replace(session.record(name), retired=True))


def garbage(session: Session, *, keep: int = KEPT) -> list[str]:
    """Versions that can be dropped: all that do not serve and are not among the last ``keep`` that did.

    One that is being built is garbage only if another that was made later serves.
    """
    serving = session.catalog.serving()
    records = session.catalog.versions()
    former = session.catalog.former()
    kept = {serving, *(former[len(former) - keep :] if keep else ())}
    names = [record.name for record in records]
    later = names[: names.index(serving)] if serving in names else []
    return [
        record.name
        for record in records
        if record.name not in kept and (record.role(serving) != "building" or record.name in later)
    ]


def adopt(session: Session, encoder: DenseEncoder) -> str:
    """Relabel the serving version with this encoder's identity; the name of the version.

    Raises:
        RecipeMismatch: Its canaries differ, or the version has none: then it is another space.
    """
    with session.reading() as version:
        record = version.record
        verdict = session.canary_verdict(version, encoder)
        if verdict is None or verdict.verdict != "same":
            why = "the index has no canaries" if verdict is None else verdict.sentence()
            raise RecipeMismatch(
                f"{encoder.name} cannot take over {record.name}, which {record.contract.model} built: {why}. "
                "Rebuild it with Index.upgrade (tarragon upgrade)"
            )
    contract = record.contract.relabelled(encoder.name, encoder.identity)
    session.catalog.update(replace(record, contract=contract))
    session.remember(encoder)
    return record.name

"""`Index.doctor`: looks for faults that no answer shows. `vitals` measures, `symptoms` says what the figures mean.

It only reads. Without ``deep`` no model is loaded: what a model declares is stored with the index.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from tarragon import symptoms, vitals
from tarragon.encoders.prompts import family_prompts
from tarragon.errors import InvalidInput, MissingDependency, ModelProblem, RecipeMismatch
from tarragon.findings import Examination, Finding, Severity, Unknown
from tarragon.freshness import FreshnessCheck
from tarragon.identity import DocumentState
from tarragon.protocols import DenseEncoder, DocumentRecord, OpenVersion
from tarragon.recipe import SearchRecipe
from tarragon.session import Session
from tarragon.sides import SAMPLE
from tarragon.survey import state_of
from tarragon.types import Freshness
from tarragon.vitals import Result, Vitals

ASKED = 200
"""Documents that are compared with their source."""


def examine(
    session: Session, *, recipe: SearchRecipe | None = None, k: int = 5, deep: bool = False, sample: int = SAMPLE
) -> Examination:
    """Look for silent faults of the serving version. Writes nothing.

    Args:
        session: The index.
        recipe: How it is searched; None: the defaults.
        k: Hits wanted.
        deep: Load the model, to compare its canaries and prompts; and look at all chunks, however many.
        sample: Vectors that are looked at.

    Raises:
        IndexNotFound: Nothing has been synced yet.
        InvalidInput: ``k`` or ``sample`` is below 1.
    """
    for name, value in (("k", k), ("sample", sample)):
        if value < 1:
            raise InvalidInput(f"{name}={value} must be at least 1", name=name, value=value)
    begun = time.perf_counter()
    with session.reading() as version:
        encoder, problem = _encoder(session, version, deep)
        settings = recipe or version.record.search_recipe()
        read = vitals.read(session, version, settings, k, deep=deep, sample=sample, encoder=encoder)
        results = [*_model(read, problem), *(result for check in _CHECKS for result in check(read))]
        counts = version.ledger.counts()
        return Examination(
            session.catalog.location,
            version.record.name,
            counts.documents,
            counts.chunks,
            tuple(result for result in results if isinstance(result, Finding)),
            {result.name: result.reason for result in results if isinstance(result, Unknown)},
            time.perf_counter() - begun,
        )


# --- the model and what it is given -----------------------------------------------------------------------------------
def _encoder(session: Session, version: OpenVersion, deep: bool) -> tuple[DenseEncoder | None, str]:
    """The version's model if it is at hand, or may be loaded; and why it cannot be."""
    encoder = session.encoder_at_hand(version)
    if encoder is not None or not deep:
        return encoder, ""
    try:
        return session.encoder_for(version), ""
    except (ModelProblem, RecipeMismatch, MissingDependency) as error:
        return None, str(error)


def _model(read: Vitals, problem: str) -> Iterator[Result]:
    """Its canaries and its device; ``problem`` says why it cannot be used."""
    encoder = read.encoder
    if problem:
        remedy = "install or name the model that built the index; Index.upgrade goes on with another"
        yield Finding("canaries", "fault", f"the model cannot be used: {problem}", remedy)
    elif encoder is None or not read.deep:
        yield Unknown("canaries", "the model has to run for it; look deep")
    else:
        yield _canaries(read, encoder)
    if encoder is None:
        yield Unknown("device", problem or "the model is not loaded; look deep")
    else:
        yield symptoms.judge_device(read.session.device, encoder.device, _gpu())


def _canaries(read: Vitals, encoder: DenseEncoder) -> Result:
    verdict = read.session.canary_verdict(read.version, encoder)
    if verdict is None:
        return Unknown("canaries", "the version has none yet; the next search or sync stores them")
    severities: dict[str, Severity] = {"same": "ok", "warn": "warning", "different": "fault"}
    severity = severities[verdict.verdict]
    remedy = "pin the model's runtime back (library versions, hardware, remote model), or Index.upgrade"
    sentence = f"{encoder.name}, compared with the vectors it made before: {verdict.sentence()}"
    return Finding("canaries", severity, sentence, "" if severity == "ok" else remedy, verdict.to_dict())


def _gpu() -> str:
    """A GPU that torch knows of. It is not imported for this: without a model of its own there is nothing to run."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""


def _prompts(read: Vitals) -> Iterator[Result]:
    """What is put before texts, against the model's card."""
    contract, encoder = read.version.record.contract, read.encoder
    family = family_prompts(contract.model)
    if family is None:
        yield Unknown("prompts", f"which prompts {contract.model} wants is not known here")
        return
    document = contract.identity.get("document_prompt", getattr(encoder, "document_prompt", None))
    query = read.settings.query_prompt
    query = getattr(encoder, "query_prompt", None) if query is None else query
    yield symptoms.judge_prompts(contract.model, family, document, query)


def _truncation(read: Vitals) -> Iterator[Result]:
    """Chunks against the most that the model reads, as exactly as it is known."""
    contract, encoder = read.version.record.contract, read.encoder
    declared = contract.identity.get("max_tokens", "")
    if encoder is not None:
        limit = encoder.max_tokens
    elif contract.limit < contract.recipe.chunk_tokens:
        limit = contract.limit  # the model could not take what the recipe asked for
    elif declared.isdigit():
        limit = int(declared)  # special tokens and prompt are in it: a few chunks too few are counted
    else:
        yield Unknown("truncation", f"{contract.model} is not loaded and does not declare how much it reads; look deep")
        return
    yield symptoms.judge_truncation(read.tokens, limit, contract.recipe.chunking)


# --- documents, settings, versions ------------------------------------------------------------------------------------
def _documents(read: Vitals) -> Iterator[Result]:
    """What the ledger knows to be wrong."""
    counts, total = read.version.ledger.counts(), len(read.records)
    yield symptoms.judge_failed(sum(1 for record in read.records.values() if record.failure), total)
    yield symptoms.judge_unfinished(counts.unfinished, total)
    if counts.unfinished:
        yield Unknown("stored chunks", "some documents are half written")
    else:
        yield symptoms.judge_stored(counts.chunks, read.store.count())


def _sources(read: Vitals) -> Iterator[Result]:
    """Ask the sources of a sample of documents."""
    answers = ask_sources(read.session, read.version, read.records, ASKED)
    stale, missing, unknown = (answers.count(answer) for answer in ("stale", "missing", "unknown"))
    if unknown == len(answers):
        yield Unknown("stale documents", "no source of them can be asked from here")
    else:
        yield symptoms.judge_sources(stale, missing, unknown, len(answers) - unknown)


def ask_sources(
    session: Session, version: OpenVersion, records: Mapping[str, DocumentRecord], most: int
) -> list[Freshness]:
    """What the sources say of documents now: of at most so many, spread evenly in order of their ids."""
    options = session.options(version.record.contract, "")
    check = FreshnessCheck(lambda document: state_of(document, options), options.contract)
    known = [record for _, record in sorted(records.items()) if record.state is not None]
    asked = known[:: max(1, math.ceil(len(known) / most))]
    sources = {name: session.origins.source(version.ledger, name) for name in {record.namespace for record in asked}}
    return [check.judge(record, *sources[record.namespace]) for record in asked]


def _depth(read: Vitals) -> Iterator[Result]:
    """How deep the stages of a search look."""
    yield symptoms.judge_depth(read.settings, read.k)


def _versions(read: Vitals) -> Iterator[Result]:
    """Versions that are kept for a rollback, and hold other documents than the one that serves."""
    session, serving = read.session, read.version.record.name
    now, behind = _contents(read.records), {}
    for record in session.catalog.versions():
        if record.role(serving) == "standby":
            with session.reading(record.name) as version:
                then = _contents(version.ledger.documents())
            behind[record.name] = sum(1 for id_ in {*now, *then} if now.get(id_) != then.get(id_))
    yield symptoms.judge_versions(behind)


def _contents(records: Mapping[str, DocumentRecord]) -> dict[str, bytes]:
    states = {id_: record.state for id_, record in records.items() if record.state}
    return {id_: b"".join(DocumentState.unpack(state)[:2]) for id_, state in states.items()}


_CHECKS: tuple[Callable[[Vitals], Iterator[Result]], ...] = (
    _prompts,
    _truncation,
    vitals.missing,
    vitals.vectors,
    vitals.statistics,
    vitals.recall,
    vitals.words,
    vitals.unindexed,
    _depth,
    _documents,
    _sources,
    _versions,
)

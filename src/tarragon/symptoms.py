"""What figures of an index mean: healthy, or a fault that no answer shows, and what to do about it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tarragon.contract import Prefix
from tarragon.encoders.prompts import Prompts
from tarragon.findings import Finding, Severity, Unknown
from tarragon.recipe import SearchRecipe

UNIT = 0.01
"""How far from 1 a declared unit length may be: float16 and 8-bit storage round, an encoder that does not normalise is
off by far more."""

REPEATED = 0.1
"""Share of vectors that different texts share from which the model cannot be telling texts apart."""

TRUNCATED = (0.01, 0.1)
"""Shares of chunks that are longer than the model reads, from which it is a warning and a fault. Below, one long table
among a hundred pages is only noted."""

FREQUENCY = 0.1
"""How far the engine's word weights may be off, relative, on the median word; they are equal to three digits where they
are counted live."""

LENGTH = 0.25
"""How far the engine's average length may be off, relative: a sample of 50 passages tells it to some 10 %."""

UNINDEXED = (20_000, 10_000_000)
"""Chunks and bytes of vectors without a graph from which it pays: below, a scan is as fast (benchmarks/README.md)."""

RECALL = 0.01
"""How far the recall of a first pass may be below what was measured when it was tuned."""

GROWN = 0.5
"""Change in the number of chunks from which a tuning says little about the index."""

ANISOTROPY = 0.5
"""Mean cosine of two chunks from which the space is narrow. MiniLM on documentation has .1 to .3."""

STALE = 0.1
"""Share of outdated documents from which a sync is overdue."""


# --- the model and what it is given -----------------------------------------------------------------------------------
def judge_prompts(model: str, family: Prompts, document: str | None, query: str | None) -> Finding | Unknown:
    """Compare the prompts in use with those of the model's card; None: not known, and not judged."""
    pairs = {"document": (document, family.document), "query": (query, family.query)}
    known = {role: pair for role, pair in pairs.items() if pair[0] is not None}
    data = {role: {"used": used, "due": due} for role, (used, due) in known.items()}
    if not known:
        return Unknown("prompts", f"{model} is not loaded and its declaration names no prompt; look deep")
    wrong = {role: pair for role, pair in known.items() if pair[0] != pair[1]}
    if not wrong:
        return Finding("prompts", "ok", f"{model}: the {' and '.join(known)} prompt is the one of its card", data=data)
    is_missing = any(not used for used, _ in wrong.values())
    told = "; ".join(f"the {role} prompt is {used!r}, its card says {due!r}" for role, (used, due) in wrong.items())
    remedies = {
        "document": "leave document_prompt out of the IndexRecipe, or set it to the card's, and upgrade",
        "query": "leave query_prompt out of the SearchRecipe",
    }
    remedy = "; ".join(remedies[role] for role in wrong)
    return Finding("prompts", "fault" if is_missing else "warning", f"{model}: {told}", remedy, data)


def judge_device(wanted: str | None, actual: str, gpu: str) -> Finding:
    """Compare the device that was asked for, the one in use and the one that is there (empty: none is known of)."""
    data = {"wanted": wanted, "actual": actual, "available": gpu}
    if wanted and actual.startswith("cpu") and not wanted.startswith("cpu"):
        remedy = "install the CUDA build of the library that runs the model (torch, onnxruntime-gpu); check nvidia-smi"
        return Finding("device", "warning", f"{wanted} was asked for, and the model runs on {actual}", remedy, data)
    if not wanted and gpu and actual.startswith("cpu"):
        remedy = f"open the index with device={gpu!r} (--device {gpu})"
        return Finding("device", "note", f"the model runs on {actual}, though there is {gpu}", remedy, data)
    return Finding("device", "ok", f"the model runs on {actual}", data=data)


def judge_truncation(tokens: Mapping[str, Sequence[int]], limit: int, chunking: str) -> Finding:
    """Compare the tokens of each document's chunks with the most that the model reads of one."""
    counts = np.array([count for document in tokens.values() for count in document], dtype=np.int64)
    beyond = counts > limit
    documents = sum(1 for document in tokens.values() if max(document, default=0) > limit)
    share = float(beyond.mean()) if len(counts) else 0.0
    lost = int((counts - limit)[beyond].sum())
    data = {
        "limit": limit,
        "share": share,
        "documents": documents,
        "tokens_unread": lost,
        "longest": int(counts.max(initial=0)),
        "full_share": float((counts > 0.95 * limit).mean()) if len(counts) else 0.0,
    }
    if not beyond.any():
        return Finding("truncation", "ok", f"no chunk is longer than the {limit:,} tokens of the model", data=data)
    warning, fault = TRUNCATED
    severity: Severity = "fault" if share >= fault else "warning" if share >= warning else "note"
    sentence = (
        f"{documents / len(tokens):.1%} of the documents ({documents:,}) have chunks longer than the {limit:,} tokens "
        f"that the model reads; it never saw {lost:,} of {int(counts.sum()):,} tokens"
    )
    whole = "use chunking='structure' (tarragon upgrade --chunking structure)"
    remedy = whole if chunking == "whole" else f"use chunk_tokens below {limit}, or a model that reads more"
    return Finding("truncation", severity, sentence, remedy, data)


# --- the vectors ------------------------------------------------------------------------------------------------------
def judge_broken(zero: int, not_finite: int, checked: int) -> Finding:
    """Vectors that are zero, NaN or infinite: such a chunk is never found by its meaning, or always."""
    data = {"zero": zero, "not_finite": not_finite, "checked": checked}
    if not zero + not_finite:
        return Finding("broken vectors", "ok", f"all of {checked:,} vectors are finite and not zero", data=data)
    sentence = f"of {checked:,} vectors {zero:,} are zero and {not_finite:,} hold NaN or infinity"
    remedy = "Index.verify(deep=True, repair=True), its sample as large as the index, embeds them again"
    return Finding("broken vectors", "fault", sentence, remedy, data)


def judge_lengths(lengths: NDArray[np.float64], declared: str | None) -> Finding:
    """Compare lengths, shape ``(n,)``, n ≥ 1, with the declared normalisation; the store compares by dot product."""
    least, most = float(lengths.min()), float(lengths.max())
    off = int((np.abs(lengths - 1) > UNIT).sum())
    data = {"declared": declared, "least": least, "most": most, "not_unit": off, "checked": len(lengths)}
    told = f"lengths are {least:.4g} to {most:.4g} over {len(lengths):,} vectors"
    if declared == "unit" and off:
        remedy = "Index.verify(deep=True, repair=True); if the encoder is your own, make it normalise as it declares"
        sentence = f"{off:,} vectors are not of unit length, as the model declares: {told}; long ones rank too high"
        return Finding("vector lengths", "fault", sentence, remedy, data)
    if declared != "unit" and most > least * (1 + UNIT):
        remedy = "right for models trained with the dot product; others should be normalised"
        sentence = f"{told}: longer vectors rank higher, since the dot product is compared"
        return Finding("vector lengths", "note", sentence, remedy, data)
    return Finding("vector lengths", "ok", told, data=data)


def judge_repeated(repeated: int, checked: int, examples: Sequence[str]) -> Finding:
    """Vectors that chunks with different words share."""
    data = {"repeated": repeated, "checked": checked, "examples": list(examples)}
    if not repeated:
        return Finding("repeated vectors", "ok", f"different texts have different vectors ({checked:,})", data=data)
    severity: Severity = "fault" if repeated >= REPEATED * checked else "warning"
    sentence = f"{repeated:,} of {checked:,} chunks have the vector of a chunk with other words"
    remedy = "check truncation and the encoder's input; Index.verify(deep=True) says which vectors are wrong"
    return Finding("repeated vectors", severity, sentence, remedy, data)


def judge_anisotropy(cosine: float, checked: int, fusion: str) -> Finding:
    """Judge the mean cosine of two chunks."""
    data = {"cosine": cosine, "checked": checked}
    if cosine <= ANISOTROPY:
        return Finding("anisotropy", "ok", f"two chunks have a mean cosine of {cosine:.2f}", data=data)
    centred = fusion == "calibrated"
    sentence = (
        f"two chunks have a mean cosine of {cosine:.2f}: the vectors lie in a narrow cone, so that scores hardly differ"
        f"{', which calibrated fusion takes out' if centred else ''}"
    )
    remedy = "check the prompts; SearchRecipe(fusion='calibrated') scores around the mean; or use another model"
    return Finding("anisotropy", "note" if centred else "warning", sentence, "" if centred else remedy, data)


# --- the engine -------------------------------------------------------------------------------------------------------
def judge_frequencies(counted: Sequence[float], implied: Sequence[float], words: Sequence[str]) -> Finding:
    """Compare idf as counted now with what the engine's scores imply, word by word."""
    off = np.abs(np.array(implied) - np.array(counted)) / np.maximum(counted, 0.5)
    worst, median = int(off.argmax()), float(np.median(off))
    data = {
        "words": len(words),
        "median_deviation": median,
        "worst": words[worst],
        "worst_deviation": float(off[worst]),
    }
    told = f"over {len(words)} words idf is off by {median:.1%} (median)"
    if median <= FREQUENCY:
        return Finding("word weights", "ok", told, data=data)
    sentence = f"{told}; {words[worst]!r} weighs {implied[worst]:.2f} instead of {counted[worst]:.2f}"
    remedy = (
        "tarragon optimize makes the engine count again; on a server, index the text with scoring, as Tarragon does"
    )
    return Finding("word weights", "warning", sentence, remedy, data)


def judge_average_length(counted: float, implied: float) -> Finding:
    """Compare the average length of a chunk, in words, with what the engine's scores imply."""
    known = bool(np.isfinite(implied))
    data = {"counted": counted, "implied": implied if known else None}
    told = f"chunks have {counted:.0f} words on average, and the engine counts "
    told += f"with {implied:.0f}" if known else "as if length did not matter"
    if abs(implied / counted - 1) <= LENGTH:
        return Finding("average length", "ok", told, data=data)
    remedy = "short and long chunks are weighed wrongly: tarragon optimize; on a server, index the text with scoring"
    return Finding("average length", "warning", told, remedy, data)


def judge_unindexed(chunks: int, unindexed: int, dimensions: int) -> Finding:
    """Judge how many chunks are in no vector graph."""
    size = unindexed * dimensions * 4
    data = {"chunks": unindexed, "bytes": size, "share": unindexed / max(chunks, 1)}
    told = f"{unindexed:,} of {chunks:,} chunks ({size / 1e6:.1f} MB) are in no vector graph"
    fewest, least = UNINDEXED
    if unindexed > fewest and size > least:
        return Finding("unindexed vectors", "warning", f"{told}: every search scans them", "tarragon optimize", data)
    return Finding("unindexed vectors", "ok", f"{told}; a scan is as fast at that size", data=data)


def judge_recall(prefix: Prefix, found: NDArray[np.float64], chunks: int) -> Finding:
    """Compare the recall of a first pass, per query, shape ``(queries,)``, with what was certified.

    Below it counts only what is also beyond two standard errors: fifty queries leave some chance.
    """
    recall, error = float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))
    grown = abs(chunks - prefix.chunks) / max(prefix.chunks, 1)
    data = {"recall": recall, "certified": prefix.recall, "standard_error": error, "queries": len(found)}
    data |= {"chunks": chunks, "chunks_then": prefix.chunks}
    told = f"the first pass finds {recall:.1%} of the true ten best; {prefix.recall:.1%} were measured"
    if prefix.recall - recall > max(RECALL, 2 * error):
        remedy = "tune again: Index.tune; or search deeper: SearchRecipe.depth"
        return Finding("prefix recall", "warning", f"{told} when it was tuned", remedy, data)
    if grown > GROWN:
        sentence = f"{told}, with {prefix.chunks:,} chunks; there are {chunks:,} now"
        return Finding("prefix recall", "warning", sentence, "tune again: Index.tune", data)
    return Finding("prefix recall", "ok", told, data=data)


def judge_missing(missing: Mapping[str, int], invisible: frozenset[str], chunks: int) -> Finding:
    """Chunks without a vector in a space, by kind; those of an ``invisible`` kind are then not found by meaning."""
    gaps = {kind: count for kind, count in missing.items() if count}
    data = dict(missing)
    if not gaps:
        return Finding("missing vectors", "ok", f"every chunk has its {' and '.join(missing)} vector", data=data)
    told = ", ".join(f"{count:,} of {chunks:,} chunks have no {kind} vector" for kind, count in gaps.items())
    remedies = {"dense": "Index.verify(repair=True)", "prefix": "tune again: Index.tune"}
    steps = dict.fromkeys(remedies.get(kind, "upgrade to a new version, which makes them again") for kind in gaps)
    severity: Severity = "fault" if invisible & set(gaps) else "warning"
    return Finding("missing vectors", severity, told, "; ".join(steps), data)


# --- the settings of a search -----------------------------------------------------------------------------------------
def judge_depth(recipe: SearchRecipe, k: int) -> Finding:
    """Compare how deep each stage looks with the number of hits wanted."""
    shallow = [step.depth for step in recipe.rerankers if step.depth < k]
    data = {"k": k, "depth": recipe.depth, "rerankers": [step.depth for step in recipe.rerankers]}
    told = []
    if recipe.depth < k:
        told.append(f"each leg looks {recipe.depth} deep for {k} hits, so that fusion has nothing to choose from")
    if shallow:
        told.append(f"a reranker reads {min(shallow)} passages, so that {k - min(shallow)} of {k} hits stay unread")
    if told:
        return Finding("depth", "warning", "; ".join(told), f"use a depth of at least {4 * k}, or a smaller k", data)
    return Finding("depth", "ok", f"each leg looks {recipe.depth} deep for {k} hits", data=data)


# --- the documents ----------------------------------------------------------------------------------------------------
def judge_failed(failed: int, documents: int) -> Finding:
    """Judge how many documents the last sync could not index."""
    data = {"failed": failed, "documents": documents}
    if not failed:
        return Finding("failed documents", "ok", f"all of {documents:,} documents could be indexed", data=data)
    sentence = f"{failed:,} of {documents:,} documents could not be indexed; at best an old text of them is served"
    return Finding("failed documents", "warning", sentence, "tarragon status names them: mend them and sync", data)


def judge_unfinished(unfinished: int, documents: int) -> Finding:
    """Judge how many documents are between two states."""
    data = {"unfinished": unfinished, "documents": documents}
    if not unfinished:
        return Finding("unfinished documents", "ok", "no document is half written", data=data)
    sentence = f"the writing of {unfinished:,} of {documents:,} documents was interrupted, or is going on"
    return Finding("unfinished documents", "warning", sentence, "sync again, which completes it", data)


def judge_stored(recorded: int, stored: int) -> Finding:
    """Compare the chunks of the ledger with those of the store."""
    data = {"recorded": recorded, "stored": stored}
    if recorded == stored:
        return Finding("stored chunks", "ok", f"all of {recorded:,} recorded chunks are stored", data=data)
    sentence = f"{recorded:,} chunks are recorded and {stored:,} are stored"
    return Finding("stored chunks", "fault", sentence, "tarragon verify --repair", data)


def judge_sources(stale: int, missing: int, unknown: int, asked: int) -> Finding:
    """Judge a sample of documents that were compared with their sources."""
    outdated = stale + missing
    data = {"stale": stale, "missing": missing, "unknown": unknown, "asked": asked}
    told = f"of {asked:,} documents asked of their source {stale:,} have changed and {missing:,} are gone"
    if not outdated:
        return Finding("stale documents", "ok", told, data=data)
    severity: Severity = "warning" if outdated >= STALE * asked else "note"
    return Finding("stale documents", severity, told, "sync the source", data)


def judge_versions(behind: Mapping[str, int]) -> Finding:
    """Judge by how many documents the versions that are kept for a rollback differ from the one that serves."""
    late = {name: count for name, count in behind.items() if count}
    if not late:
        return Finding("versions", "ok", f"{len(behind)} kept for a rollback, none of them behind", data=behind)
    told = ", ".join(f"{name} differs in {count:,} documents" for name, count in late.items())
    remedy = "sync with its model at hand, or drop it: tarragon gc --keep 0"
    return Finding("versions", "warning", f"a rollback would bring back old texts: {told}", remedy, behind)

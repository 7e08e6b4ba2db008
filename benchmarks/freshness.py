"""Kept up to date: ours beside LlamaIndex's ``IngestionPipeline`` and LangChain's ``index()``, on the same edits.

    python -m benchmarks.freshness SOURCE [--documents 300] [--repeats 1] [--json OUT]

Four runs over the same documents: all of them are new; nothing has changed; some were edited by a sentence, deleted or
renamed; and the model was replaced by one with vectors of the same length (the same weights with CLS pooling), with one
more document edited. After each run, is what is gone still found? The removed sentences are asked for word by word, and
also looked for in the whole store. After the replacement, stored vectors are compared with what the new model makes of
the same texts, and documents are asked for by one of their sentences.

Where ours refuses the other model it is then told to upgrade, which is measured too; the peers have no such call.
`Index.upgrade` builds a second version while the first one serves, and `Index.promote` lets it serve.

Each run opens what it needs and closes it, with the model loaded. The order of the systems turns around from run to
run.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import read_documents
from benchmarks.freshness_peers import Found, LangChainIndexing, LlamaIndexPipeline, Model, Stored, System, Tarragon
from benchmarks.report import add_common_options, markdown_table, publish
from tarragon import IndexRecipe
from tarragon.encoders.bundled import bundled_model_path
from tarragon.errors import TarragonError
from tarragon.recipe import BUNDLED

K = 10
ASKED = 50
"""Documents that are asked for by one of their sentences."""

COMPARED = 200
"""Stored vectors that are compared with those of the new model."""

SAME = 0.9995
"""Least cosine between a stored vector and one that the same model makes again."""

FRAGMENT = 40
"""Characters out of the middle of a sentence by which it is recognised, should a chunk end within it."""

_PLAIN = re.compile(r"[A-Z][^<>\[\]|`*_#]+\.")
"""A sentence without links, code or other markup."""

STEPS = ("all new", "nothing changed", "edited", "model replaced")
UPGRADED = "upgraded"
"""A step of ours alone."""


# --- the documents and what happens to them ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a document.

    Attributes:
        kind: ``edited``, ``deleted`` or ``renamed``.
        document_id: Before.
        sentence: That stood only in it, before.
        new_id: After; empty for a deleted one.
        new_sentence: That stands only in it, after; empty for a deleted one.
    """

    kind: str
    document_id: str
    sentence: str
    new_id: str
    new_sentence: str


def own_sentences(documents: Mapping[str, str]) -> dict[str, str]:
    """For each document that has one, a sentence in plain words that no other document has."""
    places: dict[str, set[str]] = {}
    for id_, text in documents.items():
        for line in text.splitlines():
            for sentence in re.split(r"(?<=[.!?])\s+", line.strip()):
                if 70 <= len(sentence) <= 220 and _PLAIN.fullmatch(sentence):
                    places.setdefault(sentence, set()).add(id_)
    own: dict[str, str] = {}
    for sentence, ids in places.items():
        if len(ids) == 1 and documents[id_ := next(iter(ids))].count(sentence) == 1:
            own.setdefault(id_, sentence)
    return own


def change(
    documents: Mapping[str, str], own: Mapping[str, str], counts: Mapping[str, int], chance: random.Random
) -> tuple[dict[str, str], list[Change]]:
    """The documents after so many edits of each kind, and what they were."""
    chosen = chance.sample(sorted(own), sum(counts.values()))
    after = dict(documents)
    changes = []
    for number, id_ in enumerate(chosen):
        text = after.pop(id_)
        if number < counts["edited"]:
            words = own[id_].rstrip("\\.").split()
            written = f"Since revision {number + 1} this page says {' '.join(reversed(words))}."
            after[id_] = text.replace(own[id_], written)
            changes.append(Change("edited", id_, own[id_], id_, written))
        elif number < counts["edited"] + counts["deleted"]:
            changes.append(Change("deleted", id_, own[id_], "", ""))
        else:
            after[f"moved/{id_}"] = text
            changes.append(Change("renamed", id_, own[id_], f"moved/{id_}", own[id_]))
    return {id_: after[id_] for id_ in sorted(after)}, changes


def other_model(folder: Path, model: str | None) -> Path:
    """The same weights with CLS pooling instead of the mean: vectors of the same length in another space."""
    shutil.copytree(bundled_model_path() if model in (None, BUNDLED) else Path(str(model)), folder)
    (settings,) = folder.glob("*_Pooling/config.json")
    values = json.loads(settings.read_text(encoding="utf-8"))
    values.update({name: False for name in values if name.startswith("pooling_mode_")}, pooling_mode_cls_token=True)
    settings.write_text(json.dumps(values), encoding="utf-8")
    return folder


# --- looking ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Look:
    """What is found after the changes.

    Attributes:
        old_found: Changes whose removed sentence, or former id, is among the first hits for that sentence.
        old_stored: Changes of which the same is true anywhere in the store.
        new_found: Changes whose new sentence is found under its document's id.
        new: Changes that have a new sentence.
    """

    old_found: int
    old_stored: int
    new_found: int
    new: int


def look(system: System, changes: Sequence[Change], model: Model) -> Look:
    """Ask for what is gone, and for what came."""
    old = system.search([one.sentence for one in changes], K, model)
    stored = [passage.found for passage in system.stored()]
    came = [one for one in changes if one.new_sentence]
    new = system.search([one.new_sentence for one in came], K, model)
    return Look(
        old_found=sum(any(_is_old(hit, one) for hit in hits) for one, hits in zip(changes, old, strict=True)),
        old_stored=sum(any(_is_old(hit, one) for hit in stored) for one in changes),
        new_found=sum(any(_is_new(hit, one) for hit in hits) for one, hits in zip(came, new, strict=True)),
        new=len(came),
    )


def _is_old(hit: Found, change: Change) -> bool:
    if change.kind == "renamed":
        return hit.document_id == change.document_id
    return _says(hit, change.sentence) or (change.kind == "deleted" and hit.document_id == change.document_id)


def _is_new(hit: Found, change: Change) -> bool:
    return hit.document_id == change.new_id and _says(hit, change.new_sentence)


def _says(hit: Found, sentence: str) -> bool:
    start = (len(sentence) - FRAGMENT) // 2
    return sentence[start : start + FRAGMENT] in " ".join(hit.text.split())


def recall(system: System, own: Mapping[str, str], model: Model) -> float:
    """Share of documents that are found when asked for by their own sentence."""
    asked = [(id_, own[id_]) for id_ in sorted(own)[:: max(1, len(own) // ASKED)]][:ASKED]
    answers = system.search([sentence for _, sentence in asked], K, model)
    found = sum(any(hit.document_id == id_ for hit in hits) for (id_, _), hits in zip(asked, answers, strict=True))
    return found / len(asked)


def wrong_vectors(stored: Sequence[Stored], model: Model) -> tuple[int, int]:
    """(vectors that this model does not make of their text, vectors compared)."""
    sample = stored[:: max(1, len(stored) // COMPARED)][:COMPARED]
    made = model.embed_uncounted([passage.found.text for passage in sample])
    kept = np.stack([passage.vector for passage in sample])
    cosines = (made * kept).sum(axis=1) / (np.linalg.norm(made, axis=1) * np.linalg.norm(kept, axis=1))
    return int((cosines < SAME).sum()), len(sample)


# --- measuring --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one system.

    Attributes:
        texts: Of documents, given to the model.
        canaries: Texts with which ours checked the model.
        seconds: From open to close.
        passages: In the store afterwards.
        refused: The error by which the run ended; empty if it did not.
        look: What was found after the changes; None before there are any.
        recall: See `recall`; of the model replaced, asked with the new one. None where that is refused.
        former_recall: The same with the former model, where the new one is refused.
        wrong_vectors: See `wrong_vectors`, against the model of the run.
        compared: How many vectors that is of.
    """

    texts: int
    canaries: int
    seconds: float
    passages: int
    refused: str
    look: Look | None
    recall: float | None
    former_recall: float | None
    wrong_vectors: int
    compared: int


def measure(options: argparse.Namespace, space: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    documents = {
        document.id: document.text for document, _ in islice(read_documents(options.source), options.documents)
    }
    own = own_sentences(documents)
    counts = {"edited": max(3, len(documents) // 100), "deleted": max(2, len(documents) // 200), "renamed": 3}
    chance = random.Random(0)
    edited, changes = change(documents, own, counts, chance)
    touched = {one.document_id for one in changes}
    kept = {id_: sentence for id_, sentence in own.items() if id_ not in touched}
    again, more = change(edited, kept, {"edited": 1, "deleted": 0, "renamed": 0}, chance)
    asked = {id_: sentence for id_, sentence in kept.items() if id_ not in {one.document_id for one in more}}
    model = Model(options.model, options.device)
    other = Model(str(other_model(space / "cls-pooling", options.model)), options.device)
    runs: dict[str, tuple[Mapping[str, str], Sequence[Change], Model]] = {
        "all new": (documents, (), model),
        "nothing changed": (documents, (), model),
        "edited": (edited, changes, model),
        "model replaced": (again, more, other),
    }
    results: dict[str, dict[str, list[Outcome]]] = {step: {} for step in (*STEPS, UPGRADED)}
    for round_ in range(options.repeats):
        systems = _systems(space / str(round_), options.chunk_tokens)
        for number, step in enumerate(STEPS):
            wanted, changed, used = runs[step]
            for system in systems if (number + round_) % 2 == 0 else systems[::-1]:
                print(f"{step}: {system.name}", file=sys.stderr)
                outcome = run(system, wanted, used, changed, asked, former=model)
                results[step].setdefault(system.name, []).append(outcome)
        for system in systems:
            if isinstance(system, Tarragon):
                outcome = run(system, again, other, more, asked, former=model, call=system.upgrade)
                results[UPGRADED].setdefault(system.name, []).append(outcome)
    return {
        "benchmark": "freshness",
        "source": options.source.resolve().name,
        "documents": len(documents),
        "characters": sum(map(len, documents.values())),
        "changes": counts,
        "asked": min(ASKED, len(asked)),
        "model": model.name,
        "device": model.encoder.device,
        "chunk_tokens": options.chunk_tokens,
        "steps": {
            step: {name: [asdict(outcome) for outcome in outcomes] for name, outcomes in by_system.items()}
            for step, by_system in results.items()
        },
    }


def _systems(folder: Path, chunk_tokens: int) -> list[System]:
    folders = [folder / name for name in ("tarragon", "llama-index", "langchain")]
    for path in folders:
        path.mkdir(parents=True)
    recipe = IndexRecipe(chunk_tokens=chunk_tokens)
    return [
        Tarragon(folders[0], recipe),
        LlamaIndexPipeline(folders[1], chunk_tokens),
        LangChainIndexing(folders[2], chunk_tokens),
    ]


def run(
    system: System,
    documents: Mapping[str, str],
    model: Model,
    changes: Sequence[Change],
    asked: Mapping[str, str],
    *,
    former: Model,
    call: Callable[[Mapping[str, str], Model], None] | None = None,
) -> Outcome:
    """One run, or this ``call`` in its place, and all that is looked at afterwards."""
    models = [model] if model is former else [model, former]
    for one in models:
        one.forget()
    started = time.perf_counter()
    refused = _refusal(lambda: (call or system.run)(documents, model))
    seconds = time.perf_counter() - started
    texts, canaries = sum(one.asked for one in models), sum(one.canaries for one in models)
    stored = system.stored()
    found: list[float] = []
    refused = refused or _refusal(lambda: found.append(recall(system, asked, model)))
    wrong, compared = wrong_vectors(stored, model)
    return Outcome(
        texts=texts,
        canaries=canaries,
        seconds=seconds,
        passages=len(stored),
        refused=refused,
        look=look(system, changes, model) if changes and not refused else None,
        recall=found[0] if found else None,
        former_recall=None if found else recall(system, asked, former),
        wrong_vectors=wrong,
        compared=compared,
    )


def _refusal(call: Callable[[], object]) -> str:
    """The error of ours by which the call ended; the peers' errors are not expected and go on."""
    try:
        call()
    except TarragonError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def render(result: Mapping[str, Any]) -> str:
    """Texts and seconds for each run, then what is found of the changes, then what became of the other model."""
    names = list(result["steps"]["all new"])
    costs = [[step, *(_cost(result["steps"][step].get(name)) for name in names)] for step in (*STEPS, UPGRADED)]
    found = []
    for label, value in (
        ("what is gone is found, of", "old_found"),
        ("what is gone is stored, of", "old_stored"),
        ("what came is found, of", "new_found"),
    ):
        looks = {name: result["steps"]["edited"][name][0]["look"] for name in names}
        of = looks[names[0]]["new"] if value == "new_found" else sum(result["changes"].values())
        found.append([f"{label} {of}", *(looks[name][value] for name in names)])
    before = {name: result["steps"]["edited"][name][0] for name in names}
    swaps = {name: result["steps"]["model replaced"][name][0] for name in names}
    upgraded = result["steps"][UPGRADED]
    swapped = [
        ["reaction", *map(_reaction, swaps.values())],
        ["stored vectors that the new model does not make", *map(_wrong, swaps.values())],
        [f"recall@{K} before", *map(_recall, before.values())],
        [f"recall@{K} after", *map(_recall, swaps.values())],
        ["upgraded: stored vectors that the new model does not make", *(_of(upgraded, name, _wrong) for name in names)],
        [f"upgraded: recall@{K}", *(_of(upgraded, name, _recall) for name in names)],
    ]
    counts = ", ".join(f"{count} {kind}" for kind, count in result["changes"].items())
    return "\n".join(
        [
            f"{result['source']}: {result['documents']} documents ({counts}), {result['model']} on {result['device']}, "
            f"chunks of at most {result['chunk_tokens']} tokens",
            "",
            markdown_table(["texts embedded / seconds", *names], costs),
            "",
            markdown_table(["after the edits", *names], found),
            "",
            markdown_table(["the model replaced", *names], swapped),
            "",
            *(f"{name} refused with {swap['refused']}" for name, swap in swaps.items() if swap["refused"]),
        ]
    )


def _cost(outcomes: Sequence[Mapping[str, Any]] | None) -> str:
    if not outcomes:
        return ""
    seconds = statistics.median(outcome["seconds"] for outcome in outcomes)
    return f"{outcomes[0]['texts']:,} / {seconds:.1f}"


def _of(
    outcomes: Mapping[str, Sequence[Mapping[str, Any]]], name: str, tell: Callable[[Mapping[str, Any]], str]
) -> str:
    return tell(outcomes[name][0]) if name in outcomes else ""


def _wrong(outcome: Mapping[str, Any]) -> str:
    if outcome["refused"]:
        return "none is served to it"
    return f"{outcome['wrong_vectors']} of {outcome['compared']}"


def _recall(outcome: Mapping[str, Any]) -> str:
    if outcome["recall"] is None:
        return f"refused; {outcome['former_recall']:.2f} with the former model"
    return f"{outcome['recall']:.2f}"


def _reaction(swap: Mapping[str, Any]) -> str:
    if swap["refused"]:
        return "refuses"
    if swap["wrong_vectors"]:
        return "goes on, and mixes" if swap["texts"] else "goes on"
    return "embeds anew"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if ours serves anything that is gone or of another space."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.freshness", description="Kept up to date, beside peers."
    )
    parser.add_argument("source", type=Path, help="a folder or a .jsonl file")
    parser.add_argument("--documents", type=int, default=300, help="at most; fewer if the source has fewer")
    parser.add_argument("--chunk-tokens", type=int, default=254, help="the bundled model's limit by default")
    add_common_options(parser, repeats=1)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(langchain_core|llama_index|qdrant_client)\b")
    with tempfile.TemporaryDirectory(prefix="tarragon-freshness-") as folder:
        result = measure(options, Path(folder))
    publish(result, render(result), options.json)
    return 0 if good(result) else 1


def good(result: Mapping[str, Any]) -> bool:
    """Whether ours finds what came and nothing that is gone, embeds nothing without need, and mixes no spaces."""
    ours = {step: result["steps"][step][Tarragon.name][0] for step in STEPS}
    edited = ours["edited"]["look"]
    swap = result["steps"][UPGRADED][Tarragon.name][0] if ours["model replaced"]["refused"] else ours["model replaced"]
    return (
        ours["nothing changed"]["texts"] == 0
        and edited["old_found"] == edited["old_stored"] == 0
        and edited["new_found"] == edited["new"]
        and not swap["refused"]
        and not swap["wrong_vectors"]
    )


if __name__ == "__main__":
    sys.exit(main())

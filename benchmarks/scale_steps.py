"""The steps of `benchmarks.scale`, each in a process of its own: so open times and memory are those of a fresh one.

    python -m benchmarks.scale_steps STEP INDEX FOLDER DOCUMENTS

The last line that a step prints is its result as JSON. Nothing here loads torch, whose memory would count.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale_corpus import documents, edit_pages, passages
from benchmarks.scale_encoder import SpectrumEncoder
from benchmarks.timing import percentile
from tarragon import Index, Progress
from tarragon.chunking import Chunker
from tarragon.recipe import Mode
from tarragon.store.embedded import attach
from tarragon.types import FloatArray

QUERIES, WARM_UP, K = 300, 30, 10
EDITS = 1_000
RECALL_QUERIES = 100
QUERY_WORDS = 8
INTERVAL = 0.05
"""Seconds between two looks at the memory."""

PAGE = 4_096
"""Vectors read at once for the exact scan."""

MARKS = 10
"""Moments of a build of which the pace is told."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a step works on: the index, the folder of its documents, and how many there are."""

    index: Path
    folder: Path
    documents: int


# --- memory -----------------------------------------------------------------------------------------------------------
def memory() -> dict[str, int]:
    """Resident bytes of this process now: its own, and those of mapped files, which the system can drop at any time."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith("kB")}
    return {"own": sizes["RssAnon"], "mapped": sizes["RssFile"]}


@contextmanager
def watched(peak: dict[str, int]) -> Iterator[None]:
    """Note the most of both kinds of memory meanwhile, and the most of both together."""
    done = threading.Event()

    def look() -> None:
        now = memory()
        for name, size in (*now.items(), ("all", sum(now.values()))):
            peak[name] = max(peak.get(name, 0), size)

    def watch() -> None:
        while not done.wait(INTERVAL):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds by the clock, what it returned)."""
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


# --- building ---------------------------------------------------------------------------------------------------------
class TimedEncoder(SpectrumEncoder):
    """The same, and how long it took: that is the benchmark's time and not the index's."""

    seconds = 0.0

    def encode_documents(self, inputs: Any) -> Any:
        """See `tarragon.protocols.DenseEncoder`."""
        took, made = timed(lambda: SpectrumEncoder.encode_documents(self, inputs))
        self.seconds += took
        return made


def build(place: Place) -> dict[str, Any]:
    """A first sync of the folder."""
    paces: list[tuple[float, int]] = []
    peak: dict[str, int] = {}

    def note(progress: Progress) -> None:
        if progress.documents >= (len(paces) + 1) * place.documents / MARKS:
            paces.append((progress.seconds, progress.chunks_embedded))

    encoder = TimedEncoder()
    with Index.open(place.index, encoder=encoder) as index:
        before = memory()
        with watched(peak):
            seconds, report = timed(lambda: index.sync(place.folder, progress=note))
        status = index.status()
    return {
        "seconds": seconds,
        "encoding": encoder.seconds,
        "chunks": status.chunks,
        "documents": status.documents,
        "failed": report.documents_failed,
        "paces": paces,
        "before": before,
        "peak": peak,
    }


def optimize(place: Place) -> dict[str, Any]:
    """The vector graph, built by the engine in a child process on a copy."""
    with Index.open(place.index, encoder=SpectrumEncoder()) as index:
        seconds, worked = timed(index.optimize)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "worked": worked,
        "child_peak": children.ru_maxrss << 10,
        "child_cpu": children.ru_utime + children.ru_stime,
    }


# --- searching --------------------------------------------------------------------------------------------------------
def search(place: Place) -> dict[str, Any]:
    """Open, ask once, ask on; what that takes of time and memory."""
    encoder = SpectrumEncoder()
    chunker = Chunker(encoder.tokenizer, encoder.max_tokens)
    asked = passages(place.folder, place.documents, QUERIES, chunker)
    vectors = encoder.near([text for _, text in asked])
    texts = [_words(text) for _, text in asked]
    before = memory()
    opening, index = timed(lambda: Index.open(place.index, encoder=encoder))
    with index:
        opened = memory()
        begun = time.process_time()
        first, _ = timed(lambda: index.search(texts[-1], K, vector=vectors[-1]))
        first_cpu = time.process_time() - begun
        after_first = memory()
        for text, vector in zip(texts[:WARM_UP], vectors, strict=False):
            index.search(text, K, vector=vector)
        times: dict[Mode, list[float]] = {"hybrid": [], "dense": [], "lexical": []}
        found = 0
        cpu: dict[Mode, float] = {}
        for mode, taken in times.items():
            begun = time.process_time()
            every = 1 if mode == "hybrid" else 3
            for (document, _), text, vector in list(zip(asked, texts, vectors, strict=True))[::every]:
                took, hits = timed(partial(index.search, text, K, mode=mode, vector=vector))
                taken.append(took)
                found += mode == "hybrid" and any(hit.document_id == document for hit in hits)
            cpu[mode] = 1e3 * (time.process_time() - begun) / len(taken)
        after = memory()
    return {
        "open_seconds": opening,
        "first_query_seconds": first,
        "first_query_cpu": first_cpu,
        "milliseconds": {
            mode: {"p50": 1e3 * percentile(taken, 0.5), "p95": 1e3 * percentile(taken, 0.95)}
            for mode, taken in times.items()
        },
        "processor_milliseconds": cpu,
        "queries": len(asked),
        "found": found / len(asked),
        "memory": {"before": before, "opened": opened, "first query": after_first, "all queries": after},
    }


def _words(text: str) -> str:
    """A run of words from the middle."""
    words = text.split()
    return " ".join(words[max(0, (len(words) - QUERY_WORDS) // 2) :][:QUERY_WORDS])


def recall(place: Place) -> dict[str, Any]:
    """Share of the exact ten nearest that the dense leg finds: the check that the speed is of a right answer."""
    encoder = SpectrumEncoder()
    asked = passages(place.folder, place.documents, RECALL_QUERIES, Chunker(encoder.tokenizer, encoder.max_tokens))
    vectors = encoder.near([text for _, text in asked])
    with Index.open(place.index, encoder=encoder) as index:
        found = [
            {hit.chunk_id for hit in index.search(text, K, mode="dense", vector=vector)}
            for (_, text), vector in zip(asked, vectors, strict=True)
        ]
    exact = _nearest(place.index, vectors)
    return {"recall": sum(len(one & two) for one, two in zip(found, exact, strict=True)) / (K * len(asked))}


def _nearest(path: Path, queries: FloatArray) -> list[set[str]]:
    """Of each query the exact ten, by a scan of all stored vectors."""
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    catalog = attach(path)
    try:
        with catalog.reading() as version:
            assert version is not None
            ids = version.store.ids()
            while page := list(islice(ids, PAGE)):
                stored = version.store.vectors(page)
                scores = queries @ np.stack([stored[id_] for id_ in page]).T
                for place, row in enumerate(scores):
                    nearest = np.argsort(-row)[:K]
                    best[place] = sorted([*best[place], *((float(row[i]), str(page[i])) for i in nearest)])[-K:]
    finally:
        catalog.close()
    return [{name for _, name in ten} for ten in best]


# --- syncing again ----------------------------------------------------------------------------------------------------
def unchanged(place: Place) -> dict[str, Any]:
    """A sync of a folder in which nothing has changed."""
    return _synced(place, lambda index: index.sync(place.folder, progress=False))


def edited(place: Place) -> dict[str, Any]:
    """A sync of the folder, some of whose files have changed."""
    edit_pages(place.folder, place.documents, EDITS, 1)
    return _synced(place, lambda index: index.sync(place.folder, progress=False))


def only(place: Place) -> dict[str, Any]:
    """A sync of just the files that have changed, by their names."""
    ids = edit_pages(place.folder, place.documents, EDITS, 2)
    return _synced(place, lambda index: index.sync(place.folder, only=[f"/{id_}" for id_ in ids], progress=False))


def handed(place: Place) -> dict[str, Any]:
    """The changed documents handed over, and no other."""
    ids = edit_pages(place.folder, place.documents, EDITS, 3)
    changed = list(documents(place.folder, ids))
    return _synced(place, lambda index: index.sync(changed, prune=False, progress=False))


def _synced(place: Place, sync: Callable[[Index], Any]) -> dict[str, Any]:
    peak: dict[str, int] = {}
    with Index.open(place.index, encoder=SpectrumEncoder()) as index, watched(peak):
        seconds, report = timed(lambda: sync(index))
    return {
        "seconds": seconds,
        "changed": report.documents_changed,
        "unchanged": report.documents_unchanged,
        "embedded": report.chunks_embedded,
        "peak": peak,
    }


STEPS: dict[str, Callable[[Place], dict[str, Any]]] = {
    step.__name__: step for step in (build, optimize, search, recall, unchanged, edited, only, handed)
}


def run(step: str, place: Place) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale_steps", step, *map(str, asdict(place).values())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{step} failed:\n{done.stderr[-4_000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step, here."""
    step, index, folder, count = sys.argv[1:] if arguments is None else arguments
    result = STEPS[step](Place(Path(index), Path(folder), int(count)))
    print(json.dumps({**result, "process_cpu": time.process_time(), "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main()

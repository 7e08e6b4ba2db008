"""How long a search takes while something else is going on: a sync in another thread, an optimize in a child process.

    python -m benchmarks.serving CORPUS [--documents 200] [--rounds 3] [--json OUT]

An index of the first half of the documents is searched, question after question with a pause between them, as a server
with few users would: idle; while the other half is synced, embedded by the model, and deleted again. A larger index
with made-up vectors is searched idle and while it is optimized. The phases take turns, and each figure is over all
rounds.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import read_documents
from benchmarks.report import markdown_table, publish
from benchmarks.unchanged import HashEncoder
from tarragon import Document, Index

PAUSE = 0.02
"""Seconds between two questions."""

IDLE = 8.0
"""Seconds of an idle phase."""

WORDS = [f"{first}{second}" for first in ("ka", "lo", "mi", "nu", "pe") for second in ("ran", "sel", "tin", "vor")]

BAR = 2.0
"""How many times as long as idle a search may take at the 95th percentile."""


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path, help="a corpus.jsonl")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=20_000, help="of the index with made-up vectors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    documents = [document for document, _ in islice(read_documents(options.corpus), options.documents)]
    half = len(documents) // 2
    questions = [document.text[:80].replace("\n", " ") for document in documents[::3]]
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place, Index.open(Path(place) / "i") as index:
        index.sync(documents[:half], progress=False)
        chunks = index.status().chunks
        for question in questions[:5]:
            index.search(question, k=10)
        for _ in range(options.rounds):
            times["idle"] += _during(index, questions, lambda: time.sleep(IDLE))
            times["sync"] += _during(index, questions, lambda: _sync(index, documents, half))
    with tempfile.TemporaryDirectory() as place, Index.open(Path(place) / "i", encoder=HashEncoder(384)) as index:
        for round_ in range(options.rounds):
            index.sync(_made_up(options.chunks, round_), max_delete=1.0, progress=False)
            index.search(questions[0], k=10)
            times["idle, made-up vectors"] += _during(index, questions, lambda: time.sleep(IDLE))
            times["optimize, made-up vectors"] += _during(index, questions, index.optimize)
    result: dict[str, Any] = {"chunks": chunks, "seconds": dict(times)}
    publish(result, _render(result), options.json)


def _made_up(chunks: int, round_: int) -> list[Document]:
    """Short documents, a twentieth of which are others in each round, so that there is something to optimize."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=60)) for _ in range(chunks)]
    return [
        Document(f"{number:06}", f"{text} {round_ if number % 20 == 0 else 0}") for number, text in enumerate(texts)
    ]


def _sync(index: Index, documents: Sequence[Document], half: int) -> None:
    index.sync(documents, progress=False)
    index.sync(documents[:half], max_delete=1.0, progress=False)


def _during(index: Index, questions: Sequence[str], work: Callable[[], object]) -> list[float]:
    """Seconds of each search while the work is done in another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    taken: list[float] = []
    while thread.is_alive():
        begun = time.perf_counter()
        index.search(questions[len(taken) % len(questions)], k=10)
        taken.append(time.perf_counter() - begun)
        time.sleep(PAUSE)
    thread.join()
    return taken


def _render(result: dict[str, Any]) -> str:
    rows = []
    for phase, seconds in result["seconds"].items():
        if phase.startswith("idle"):
            idle = np.percentile(seconds, 95)
        p50, p95, worst = np.percentile(seconds, [50, 95, 100]) * 1e3
        rows.append([phase, len(seconds), f"{p50:.1f}", f"{p95:.1f}", f"{worst:.1f}", f"{p95 / 1e3 / idle:.2f}"])
    title = (
        f"Searches over {result['chunks']:,} chunks, the question's embedding included (bar: p95 at most {BAR} × idle)"
    )
    return f"{title}\n\n{markdown_table(['while', 'searches', 'p50, ms', 'p95, ms', 'longest', 'p95 / idle'], rows)}"


if __name__ == "__main__":
    main()

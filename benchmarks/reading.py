"""What the read path costs beyond the model and the engine, and what batches and concurrency gain.

    python -m benchmarks.reading CORPUS.jsonl [--chunks N] [--queries FILE] [--index FOLDER] [--json OUT]

Three measurements on one index, with the bundled model:

overhead     one hybrid query at a time: the whole call without embedding the query and without the engine's own calls
             (timed at the shard), median and 95th percentile; receipt and freshness included
batch        1,000 questions at once over one at a time, embedding included; the hits must be the same
concurrency  64 callers on an event loop over one at a time, and the longest time for which the loop did not turn
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.corpus import first_items
from benchmarks.shares import TimedShard
from tarragon import Index, Retriever, SearchRecipe
from tarragon.chunking import Chunker

CALLERS = 64
K = 10


def overhead(index: Index, questions: Sequence[str], recipe: SearchRecipe) -> dict[str, float]:
    """Milliseconds of a query: whole, in the engine, and beyond."""
    vectors = index.encoder.encode_queries(list(questions)).vectors
    with index._opened.reading() as version:
        store: Any = version.store
    real = store._shard
    timed = store._shard = TimedShard(real)
    rows = []
    try:
        for question, vector in zip([*questions[:20], *questions], [*vectors[:20], *vectors], strict=True):
            timed.searching = timed.reading = 0.0
            begun = time.perf_counter()
            hits = index.search(question, K, recipe=recipe, vector=vector)
            whole = time.perf_counter() - begun
            assert hits.receipt.stages
            rows.append((whole, timed.searching, timed.reading))
    finally:
        store._shard = real
    rows = rows[20:]
    beyond = sorted(1000 * (whole - searching - reading) for whole, searching, reading in rows)
    beyond_search = [1000 * (whole - searching) for whole, searching, _ in rows]
    return {
        "whole p50 ms": 1000 * statistics.median(row[0] for row in rows),
        "engine search p50 ms": 1000 * statistics.median(row[1] for row in rows),
        "engine payloads p50 ms": 1000 * statistics.median(row[2] for row in rows),
        "beyond both p50 ms": statistics.median(beyond),
        "beyond both p95 ms": beyond[int(0.95 * len(beyond))],
        "beyond the search alone p50 ms": statistics.median(beyond_search),
    }


def batch(index: Index, questions: Sequence[str], rounds: int) -> dict[str, Any]:
    """How much faster a batch is than its queries one by one; A-B-B-A."""
    ratios = []
    same = True
    for number in range(rounds):
        seconds = {}
        answers = {}
        for way in ("one", "all") if number % 2 == 0 else ("all", "one"):
            index._answers.asker.vectors.clear()
            begun = time.perf_counter()
            if way == "one":
                answers[way] = [index.search(question, K) for question in questions]
            else:
                answers[way] = index.search_batch(questions, K)
            seconds[way] = time.perf_counter() - begun
        ratios.append(seconds["one"] / seconds["all"])
        pairs = zip(answers["one"], answers["all"], strict=True)
        same &= all([hit.chunk_id for hit in one] == [hit.chunk_id for hit in other] for one, other in pairs)
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "same hits": same}


async def _gaps(stop: asyncio.Event) -> float:
    longest, last = 0.0, time.perf_counter()
    while not stop.is_set():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def _concurrently(retriever: Retriever, questions: Sequence[str]) -> tuple[float, float]:
    """Seconds for all questions, by 64 callers; and the longest time for which the loop did not turn."""
    waiting = iter(questions)

    async def caller() -> None:
        for question in waiting:
            await retriever.aretrieve(question, K)

    stop = asyncio.Event()
    gaps = asyncio.create_task(_gaps(stop))
    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    seconds = time.perf_counter() - begun
    stop.set()
    return seconds, await gaps


def concurrency(index: Index, questions: Sequence[str], rounds: int) -> dict[str, float]:
    """Throughput of 64 callers over one at a time."""
    ratios, longest = [], 0.0
    with Retriever(index, k=K) as retriever:
        retriever.warm_up()
        asyncio.run(_concurrently(retriever, questions[:CALLERS]))
        for _ in range(rounds):
            index._answers.asker.vectors.clear()
            begun = time.perf_counter()
            for question in questions:
                retriever.retrieve(question)
            one = time.perf_counter() - begun
            index._answers.asker.vectors.clear()
            many, gap = asyncio.run(_concurrently(retriever, questions))
            ratios.append(one / many)
            longest = max(longest, gap)
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "longest block of the loop ms": 1000 * longest,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--queries", type=Path, required=True, help='JSON lines with "text"')
    parser.add_argument("--index", type=Path, help="use this index as it is")
    parser.add_argument("--count", type=int, default=1_000, help="questions in a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    texts = [json.loads(line)["text"] for line in options.queries.read_text(encoding="utf-8").splitlines()]
    questions = list(dict.fromkeys(texts))[: options.count]
    with TemporaryDirectory() as temporary:
        folder = options.index or Path(temporary) / "index.tarragon"
        with Index.open(folder) as index:
            if options.index is None:
                chunker = Chunker(index.encoder.tokenizer, index.recipe.chunk_tokens)
                index.sync(first_items(options.corpus, chunker, options.chunks))
                index.optimize(in_place=True)
            print(f"{index.status().chunks:,} chunks, {len(questions)} questions")
            results: dict[str, Any] = {}
            for fusion in ("dbsf", "calibrated"):
                results[f"overhead, {fusion}"] = overhead(index, questions[:300], SearchRecipe(fusion=fusion))
                print(f"overhead, {fusion}", results[f"overhead, {fusion}"])
            results["batch"] = batch(index, questions, options.rounds)
            print("batch", results["batch"])
            results["concurrency"] = concurrency(index, questions, options.rounds)
            print("concurrency", results["concurrency"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

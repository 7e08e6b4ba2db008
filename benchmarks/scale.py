"""One index from ten thousand to a million chunks: what grows, and how.

    python -m benchmarks.scale CORPUS... [--sizes 10000 30000 ...] [--folder DIR] [--json OUT] [--plot OUT.svg]
    python -m benchmarks.scale --from OUT.json --plot OUT.svg

For each size: a folder of real texts, recombined once they run out; a first sync; `optimize`; searches before it and
after; syncs of an unchanged folder, of one with 1,000 changed documents, and of just those. Tokenizer, chunker,
ledger and engine are the real ones, the vectors are made up with the spectrum of real ones. Each step runs in a
process of its own (`benchmarks.scale_steps`). A size takes some 5 kB of disk a chunk, twice that while it is optimized.

Processor seconds are told beside those by the clock: they say something on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import markdown_table, publish
from benchmarks.scale_corpus import Pool, read_pool, write_pages
from benchmarks.scale_encoder import SpectrumEncoder
from benchmarks.scale_plot import draw
from benchmarks.scale_steps import Place, run
from benchmarks.size import measure as bytes_by_part
from tarragon.chunking import Chunker

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)

STEPS = (
    ("build", "build"),
    ("search", "search, as written"),
    ("optimize", "optimize"),
    ("search", "search"),
    ("recall", "recall"),
    ("unchanged", "unchanged"),
    ("edited", "edited"),
    ("only", "only"),
    ("handed", "handed"),
)
"""Step → under which name its result is kept, in order."""


def measure(pool: Pool, chunks: int, folder: Path) -> dict[str, Any]:
    """All steps at one size; the index and the documents are deleted afterwards."""
    encoder = SpectrumEncoder()
    place = Place(folder / f"scale-{chunks}.tarragon", folder / f"scale-{chunks}", 0)
    try:
        count = write_pages(place.folder, pool, chunks, Chunker(encoder.tokenizer, encoder.max_tokens))
        place = Place(place.index, place.folder, count)
        result: dict[str, Any] = {}
        for step, name in STEPS:
            print(f"{chunks:,}: {name}", file=sys.stderr)
            result[name] = run(step, place)
            if name in ("build", "optimize"):
                sizes = bytes_by_part(place.index)
                result[name]["bytes"] = {**sizes, "all": sum(sizes.values())}
        return {"wanted": chunks, "chunks": result["build"]["chunks"], **result}
    finally:
        shutil.rmtree(place.index, ignore_errors=True)
        shutil.rmtree(place.folder, ignore_errors=True)


def measures(size: Mapping[str, Any]) -> dict[str, float | None]:
    """What the table and the plot show of a size; None for what was not measured."""

    def of(*path: str) -> Any:
        value: Any = size
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def mib(*path: str) -> float | None:
        return None if of(*path) is None else of(*path) / 2**20

    shown = {
        "build, processor seconds": of("build", "process_cpu"),
        "build, seconds": of("build", "seconds"),
        "build, most memory of its own, MiB": mib("build", "peak", "own"),
        "optimize, processor seconds": of("optimize", "child_cpu"),
        "optimize, seconds": of("optimize", "seconds"),
        "optimize, most memory of the child, MiB": mib("optimize", "child_peak"),
        "disk, MiB": mib("optimize", "bytes", "all"),
    }
    for name in ("search, as written", "search"):
        shown |= {
            f"{name}: open and first query, seconds": _sum(of(name, "open_seconds"), of(name, "first_query_seconds")),
            f"{name}: open and first query, processor seconds": of(name, "first_query_cpu"),
            f"{name}: memory of its own, MiB": mib(name, "memory", "all queries", "own"),
            f"{name}: mapped files, MiB": mib(name, "memory", "all queries", "mapped"),
            f"{name}: hybrid p50, ms": of(name, "milliseconds", "hybrid", "p50"),
            f"{name}: hybrid p95, ms": of(name, "milliseconds", "hybrid", "p95"),
            f"{name}: hybrid, processor ms": of(name, "processor_milliseconds", "hybrid"),
            f"{name}: dense p50, ms": of(name, "milliseconds", "dense", "p50"),
            f"{name}: lexical p50, ms": of(name, "milliseconds", "lexical", "p50"),
        }
    shown["recall@10 of the dense leg"] = of("recall", "recall")
    for name, title in (
        ("unchanged", "sync, nothing changed"),
        ("edited", "sync, 1,000 documents changed"),
        ("only", "sync of these 1,000 with only="),
        ("handed", "sync of these 1,000, handed over"),
    ):
        shown |= {
            f"{title}, seconds": of(name, "seconds"),
            f"{title}, processor seconds": of(name, "process_cpu"),
            f"{title}, most memory of its own, MiB": mib(name, "peak", "own"),
        }
    return shown


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def render(result: Mapping[str, Any]) -> str:
    """The table: a column a size."""
    columns = [measures(size) for size in result["sizes"]]
    rows = [[name, *(_shown(column[name]) for column in columns)] for name in columns[0]]
    parts = sorted({part for size in result["sizes"] for part in size.get("optimize", {}).get("bytes", {})})
    sizes = [[f"bytes a chunk: {part}", *(_bytes(size, part) for size in result["sizes"])] for part in parts]
    headers = ["chunks", *(f"{size['chunks']:,}" for size in result["sizes"])]
    return markdown_table(headers, [*rows, *sizes])


def _bytes(size: Mapping[str, Any], part: str) -> str:
    found = size.get("optimize", {}).get("bytes", {}).get(part)
    return "" if found is None else f"{found / size['chunks']:,.0f}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure size by size, and keep what there is after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpora", nargs="*", type=Path, metavar="CORPUS", help="folders and .jsonl files")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, metavar="CHUNKS")
    parser.add_argument("--folder", type=Path, help="for indexes and documents, which are deleted again")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="OUT.svg")
    parser.add_argument("--from", dest="known", type=Path, metavar="JSON", help="show a result that is there")
    options = parser.parse_args(arguments)
    if options.known is not None:
        result = json.loads(options.known.read_text(encoding="utf-8"))
        print(render(result))
        _plot(result, options.plot)
        return
    if not options.corpora:
        parser.error("name a corpus, or a result with --from")
    pool = read_pool(options.corpora)
    result = {"benchmark": "scale", "corpora": [corpus.name for corpus in options.corpora], "sizes": []}
    with tempfile.TemporaryDirectory(prefix="tarragon-scale-", dir=options.folder) as folder:
        for chunks in options.sizes:
            result["sizes"].append(measure(pool, chunks, Path(folder)))
            if options.json is not None:
                options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    publish(result, render(result), options.json)
    _plot(result, options.plot)


def _plot(result: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(draw([(size["chunks"], measures(size)) for size in result["sizes"]]), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Files to queryable chunks: ours, frameworks on the same files, and embedding alone.

    python -m benchmarks.frameworks SOURCE [--chunks 20000] [--peer-chunks 1000]

Ours reads, cuts, embeds and stores a folder, and is set up to keep it fresh; so are LlamaIndex's ingestion pipeline and
LangChain's ``index()``, on Qdrant's local mode. Haystack and txtai write into their own stores, without noticing
later edits. All have the same weights and chunks of at most as many of the model's tokens; how a text is cut is each
one's own, so seconds for the same files are compared. The peers run on fewer files than ours beside embedding alone,
which is given the finished chunk texts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.corpus import first_items
from benchmarks.ingest import profile
from benchmarks.report import add_common_options, conclude, markdown_table, spread_dict
from benchmarks.stored import stored_passages
from benchmarks.timing import Spread, Timings, interleave
from tarragon import Index, IndexRecipe
from tarragon.chunking import Chunker
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.protocols import EncoderInput

OURS, ALONE = "Tarragon Index.sync", "its encoder alone, on the finished chunks"
LEAST_OF_ALONE = 0.93
TIMES_BEST = 2.0
"""Bars: share of the rate of embedding alone, and times the best framework."""

LEAST_FOUND = 0.9
"""Share of documents that must be among ten hits for their own first words."""

QUERY_CHARACTERS = 200


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    recipe = IndexRecipe(chunk_tokens=min(options.chunk_tokens, encoder.max_tokens))
    large = _written(folder / "large", options, options.chunks, encoder, recipe)
    small = _written(folder / "small", options, options.peer_chunks, encoder, recipe)
    chunks, alone = _beside_embedding(folder, large, encoder, recipe, options.large_repeats)
    times, found, small_chunks = _beside_peers(folder, small, encoder, recipe, options)
    return {
        "benchmark": "frameworks",
        "source": options.source.resolve().name,
        "model": encoder.name,
        "chunks": chunks,
        "chunks_per_second": {name: chunks / alone.median(name) for name in alone.seconds},
        "share_of_alone": spread_dict(alone.speedup(OURS, ALONE)),
        "peer_chunks": small_chunks,
        "peer_documents": len(list(small.rglob("*.md"))),
        "seconds": {name: times.median(name) for name in times.seconds},
        "ratio": {name: spread_dict(times.speedup(OURS, name)) for name in times.seconds if name != OURS},
        "found": found,
        "profile": profile(
            folder / "profile.tarragon", first_items(small, _chunker(encoder, recipe), None), encoder, recipe
        ),
    }


def _chunker(encoder: SentenceTransformerEncoder, recipe: IndexRecipe) -> Chunker:
    return Chunker(encoder.tokenizer, recipe.chunk_tokens)


def _written(
    folder: Path, options: argparse.Namespace, chunks: int, encoder: SentenceTransformerEncoder, recipe: IndexRecipe
) -> Path:
    """So many documents of the source as Markdown files that they have so many chunks."""
    folder.mkdir()
    for number, item in enumerate(first_items(options.source, _chunker(encoder, recipe), chunks).items()):
        (folder / f"{number:06}.md").write_text(item.load().text, encoding="utf-8")
    return folder


def _sync(path: Path, files: Path, encoder: SentenceTransformerEncoder, recipe: IndexRecipe) -> list[str]:
    """Ours, once; gives the distinct texts of the chunks."""
    with Index.open(path, recipe=recipe, encoder=encoder) as index:
        index.sync(files, progress=False)
        return list(dict.fromkeys(passage.text for passage in stored_passages(index).values()))


def _again(folder: Path, call: Callable[[Path], object]) -> Callable[[], object]:
    """The call, in a new folder each time."""
    numbers = count()

    def run() -> object:
        place = folder / str(next(numbers))
        place.mkdir(parents=True)
        return call(place)

    return run


def _beside_embedding(
    folder: Path, files: Path, encoder: SentenceTransformerEncoder, recipe: IndexRecipe, rounds: int
) -> tuple[int, Timings]:
    texts = _sync(folder / "first.tarragon", files, encoder, recipe)
    inputs = [EncoderInput(text) for text in texts]

    def ours(place: Path) -> None:
        with Index.open(place / "i.tarragon", recipe=recipe, encoder=encoder) as index:
            index.sync(files, progress=False)

    calls = {OURS: _again(folder / "ours", ours), ALONE: lambda: encoder.encode_documents(inputs)}
    return len(texts), interleave(calls, rounds=rounds, warmups=0)


def _beside_peers(
    folder: Path, files: Path, encoder: SentenceTransformerEncoder, recipe: IndexRecipe, options: argparse.Namespace
) -> tuple[Timings, dict[str, float], int]:
    from benchmarks.freshness_peers import Model, Tarragon
    from benchmarks.ingest_peers import PEERS, System

    model = Model(options.model, options.device)
    makers: dict[str, Callable[[Path], System]] = {
        name: (lambda place, make=PEERS[name]: make(place, recipe.chunk_tokens))  # type: ignore[misc]
        for name in options.peers
    }
    makers[OURS] = lambda place: Tarragon(place, recipe)
    last: dict[str, System] = {}

    def run(name: str) -> Callable[[Path], None]:
        def call(place: Path) -> None:
            last[name] = makers[name](place)
            last[name].run({path.name: path.read_text(encoding="utf-8") for path in sorted(files.glob("*.md"))}, model)

        return call

    names = [OURS, *options.peers]
    calls = {name: _again(folder / f"peer {name}", run(name)) for name in names}
    times = interleave(calls, rounds=options.repeats, warmups=0 if options.repeats == 1 else 1)
    found = {name: _found(last[name], files, model) for name in names}
    return times, found, len(_sync(folder / "small.tarragon", files, encoder, recipe))


def _found(system: Any, files: Path, model: Any) -> float:
    """Share of the documents that are found by their own first words."""
    paths = sorted(files.glob("*.md"))[:50]
    queries = [path.read_text(encoding="utf-8")[:QUERY_CHARACTERS] for path in paths]
    answers = system.search(queries, 10, model)
    pairs = zip(paths, answers, strict=True)
    return sum(any(hit.document_id == path.name for hit in hits) for path, hits in pairs) / len(paths)


def failures(result: Mapping[str, Any]) -> list[str]:
    """What was checked and is not so; empty if the times count."""
    return [
        f"{name} finds {share:.0%} of the documents by their own words"
        for name, share in result["found"].items()
        if share < LEAST_FOUND
    ]


def render(result: Mapping[str, Any]) -> str:
    """Ours beside embedding alone, then beside the frameworks."""
    share = Spread(*result["share_of_alone"].values())
    large = [[name, f"{rate:.1f}", share if name == OURS else ""] for name, rate in result["chunks_per_second"].items()]
    small = [
        [name, f"{seconds:.1f}", Spread(*result["ratio"][name].values()) if name in result["ratio"] else ""]
        for name, seconds in result["seconds"].items()
    ]
    found = ", ".join(f"{name} {part:.0%}" for name, part in result["found"].items())
    parts = ", ".join(f"{name} {part:.1%}" for name, part in result["profile"].items())
    return "\n".join(
        [
            f"{result['source']}, {result['model']}: {result['chunks']:,} chunks",
            "",
            markdown_table(["", "chunks/s", "share of the encoder alone"], large),
            "",
            f"{result['peer_documents']} files of these, {result['peer_chunks']:,} chunks of ours",
            "",
            markdown_table(["", "s", "this / ours"], small),
            "",
            f"Time of ours: {parts}.",
            f"Bars: {LEAST_OF_ALONE:g} of the encoder alone, {TIMES_BEST:g} x the best framework.",
            f"Documents found by their own words: {found}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frameworks", description=str(__doc__).split("\n")[0])
    parser.add_argument("source", type=Path, help="a folder or a .jsonl file")
    parser.add_argument("--chunks", type=int, default=20_000, help="of ours beside embedding alone")
    parser.add_argument("--peer-chunks", type=int, default=1_000, help="beside the frameworks")
    parser.add_argument("--chunk-tokens", type=int, default=256)
    parser.add_argument("--large-repeats", type=int, default=2, help="rounds of ours beside embedding alone (2)")
    parser.add_argument("--peers", nargs="*", default=["llama_index", "langchain", "haystack", "txtai"])
    add_common_options(parser, repeats=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-frameworks-") as folder:
        result = measure(options, Path(folder))
    return conclude(result, render(result), options.json, failures(result))


if __name__ == "__main__":
    sys.exit(main())

"""What a sync costs when nothing, or nothing to embed, has changed.

    python -m benchmarks.unchanged [--files 3000] [--bytes 4096] [--repeats 6] [--json OUT]

A folder of made-up Markdown files is synced, with vectors made up too: none of this runs a model. Then, interleaved
round by round: a sync that can trust the files' stamps; a sync after all stamps were touched, so that every file must
be read and hashed; and two peers that do the least that could be done: list the folder and stat every file; the same,
and read and hash each. Then a folder of files is renamed, and the metadata of documents is edited.

Writes are looked for where they would have to be, in the bytes of the index's files. SQLite's ``-shm`` file is none of
them: it is memory that connections share, and readers write to it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import markdown_table, publish, spread_dict
from benchmarks.timing import Spread, Timings
from tarragon import Document, Index
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.reports import SyncReport
from tarragon.testing import WordEncoder

FOLDERS = 6
WITH_HASHING = 2.0
"""A sync that must read everything may take so many times as long as reading and hashing alone."""

WITH_STAMPS = 0.3
"""A sync that can trust the stamps may take this share of reading and hashing everything."""

STAMPED, TOUCHED, HASHING, LISTING = "sync, stamps as before", "sync, stamps touched", "read and hash", "list and stat"

_WORDS = [
    first + second for first in ("ba", "ce", "di", "fo", "gu", "ha", "je") for second in ("ran", "sel", "tin", "vor")
]


class HashEncoder(WordEncoder):
    """Vectors from a hash of the text: quick, and without meaning."""

    name = "hashes"

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        self.documents_encoded += len(inputs)
        seeds = [int.from_bytes(blake2b(item.text.encode(), digest_size=8).digest(), "little") for item in inputs]
        rows = np.array([np.random.default_rng(seed).standard_normal(self.dimensions) for seed in seeds])
        rows = rows.reshape(len(inputs), self.dimensions)
        vectors = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)
        return Embeddings(vectors, 0, 0)


def make_files(folder: Path, files: int, size: int) -> None:
    """Markdown files in a few subfolders, with stamps old enough to be trusted."""
    chance = random.Random(0)
    for number in range(files):
        path = folder / f"part-{number % FOLDERS}" / f"page-{number:05}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"# Page {number}\n"
        while len(text) < size:
            text += f"\n## Section {len(text)}\n\n{' '.join(chance.choices(_WORDS, k=80))}.\n"
        path.write_text(text, encoding="utf-8")
    touch(folder, time.time_ns() - 86_400 * 10**9)


def touch(folder: Path, stamp: int) -> None:
    """Set the time stamp of all files."""
    for path in folder.rglob("*.md"):
        os.utime(path, ns=(stamp, stamp))


def read_and_hash(folder: Path) -> int:
    """The least that finds out whether contents have changed: bytes that were hashed."""
    total = 0
    for path, _ in _listed(folder):
        data = Path(path).read_bytes()
        blake2b(data, digest_size=16).digest()
        total += len(data)
    return total


def list_and_stat(folder: Path) -> int:
    """The least that finds out whether stamps have changed: how many files there are."""
    return sum(1 for _ in _listed(folder))


def _listed(folder: Path) -> list[tuple[str, os.stat_result]]:
    return [
        (entry.path, entry.stat())
        for parent, _, _ in os.walk(folder)
        for entry in os.scandir(parent)
        if entry.is_file()
    ]


def digests(folder: Path) -> dict[str, bytes]:
    """What is in each file of the index, apart from who has it open."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("holder.json", "lock"))
    return {str(path.relative_to(folder)): _digest(path) for path in files if not path.name.endswith("-shm")}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        state = blake2b(digest_size=16)
        while block := file.read(1 << 20):
            state.update(block)
    return state.digest()


def measure(files: int, size: int, rounds: int, space: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    folder, path = space / "docs", space / "unchanged.tarragon"
    make_files(folder, files, size)
    encoder = HashEncoder()
    with Index.open(path, encoder=encoder) as index:
        first = index.sync(folder, progress=False)
        steps = {"second sync": _watched(index, path, encoder, lambda: index.sync(folder, progress=False))}
        touch(folder, time.time_ns() - 80_000 * 10**9)
        touched = _watched(index, path, encoder, lambda: index.sync(folder, progress=False))
        steps["all stamps touched"] = touched
        timings = _interleaved(index, folder, rounds)
        steps["folder renamed"] = _renamed(index, path, encoder, folder)
        steps["metadata edited"] = _metadata_edited(index, path, encoder, files // FOLDERS)
    return {
        "benchmark": "unchanged",
        "files": files,
        "bytes": read_and_hash(folder),
        "chunks": first.chunks_embedded + first.chunks_reused,
        "first_sync_seconds": first.seconds,
        "steps": steps,
        "seconds": dict(timings.seconds),
        "ratios": {
            TOUCHED: spread_dict(timings.speedup(HASHING, TOUCHED)),
            STAMPED: spread_dict(timings.speedup(HASHING, STAMPED)),
        },
        "allowed": {TOUCHED: WITH_HASHING, STAMPED: WITH_STAMPS},
        "stamped_over_listing": spread_dict(timings.speedup(LISTING, STAMPED)),
    }


def _watched(index: Index, path: Path, encoder: HashEncoder, call: Callable[[], SyncReport]) -> dict[str, Any]:
    """A sync, what it asked the encoder for, and what it wrote."""
    before, encoded = digests(path), encoder.documents_encoded
    report = call()
    after = digests(path)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return {
        "report": report.to_dict(),
        "texts_given_to_the_encoder": encoder.documents_encoded - encoded,
        "files_written": changed,
    }


def _interleaved(index: Index, folder: Path, rounds: int) -> Timings:
    """Each once a round, in turning order; the first round is a warm-up and not counted."""
    calls: dict[str, Callable[[], object]] = {
        STAMPED: lambda: index.sync(folder, progress=False),
        TOUCHED: lambda: index.sync(folder, progress=False),
        HASHING: lambda: read_and_hash(folder),
        LISTING: lambda: list_and_stat(folder),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name in list(calls) if number % 2 == 0 else list(calls)[::-1]:
            if name == TOUCHED:
                touch(folder, time.time_ns() - (70_000 - number) * 10**9)
            started = time.perf_counter()
            calls[name]()
            taken = time.perf_counter() - started
            if number >= 0:
                seconds[name].append(taken)
    return Timings(seconds)


def _renamed(index: Index, path: Path, encoder: HashEncoder, folder: Path) -> dict[str, Any]:
    (folder / "part-0").rename(folder / "renamed")
    return _watched(index, path, encoder, lambda: index.sync(folder, max_delete=1.0, progress=False))


def _metadata_edited(index: Index, path: Path, encoder: HashEncoder, count: int) -> dict[str, Any]:
    """Documents handed over with metadata, and again with other metadata."""
    chance = random.Random(1)
    texts = [" ".join(chance.choices(_WORDS, k=300)) for _ in range(count)]

    def handed(year: int) -> SyncReport:
        documents = [Document(f"note-{number}", text, {"year": year}) for number, text in enumerate(texts)]
        return index.sync(documents, namespace="notes", progress=False)

    handed(2025)
    return _watched(index, path, encoder, lambda: handed(2026))


def render(result: Mapping[str, Any]) -> str:
    """Times against the least that could be done, and what each step embedded and wrote."""
    names = (STAMPED, TOUCHED, HASHING, LISTING)
    times = []
    for name in names:
        ratio = result["ratios"].get(name)
        shown = Spread(*ratio.values()) if ratio else ""
        milliseconds = 1e3 * Spread.of(result["seconds"][name]).median
        times.append([name, f"{milliseconds:.0f}", shown, result["allowed"].get(name, "")])
    steps = []
    for name, step in result["steps"].items():
        report = step["report"]
        counts = [report[f"documents_{kind}"] for kind in ("unchanged", "changed", "added", "deleted")]
        steps.append(
            [
                name,
                " / ".join(map(str, counts)),
                step["texts_given_to_the_encoder"],
                len(step["files_written"]),
                f"{report['seconds']:.2f}",
            ]
        )
    return "\n".join(
        [
            f"{result['files']} files, {result['bytes'] / 1e6:.1f} MB, {result['chunks']} chunks; the first sync took "
            f"{result['first_sync_seconds']:.1f} s without a model",
            "",
            markdown_table(["", "ms", "this / read and hash", "allowed"], times),
            "",
            markdown_table(
                ["", "documents unchanged / changed / added / deleted", "texts embedded", "index files written", "s"],
                steps,
            ),
        ]
    )


def good(result: Mapping[str, Any]) -> bool:
    """Whether the bars are met and nothing was embedded."""
    within = all(result["ratios"][name]["median"] <= most for name, most in result["allowed"].items())
    steps = result["steps"]
    embedded = any(step["texts_given_to_the_encoder"] for step in steps.values())
    return within and not embedded and not steps["second sync"]["files_written"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unchanged", description="A sync with nothing to embed.")
    parser.add_argument("--files", type=int, default=3_000)
    parser.add_argument("--bytes", type=int, default=4_096, help="size of a file")
    parser.add_argument("--repeats", type=int, default=6, help="rounds that are counted (6)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-unchanged-") as folder:
        result = measure(options.files, options.bytes, options.repeats, Path(folder))
    publish(result, render(result), options.json)
    return 0 if good(result) else 1


if __name__ == "__main__":
    sys.exit(main())

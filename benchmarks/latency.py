"""One question embedded at a time, text to vector: ours beside sentence-transformers and other runtimes.

    python -m benchmarks.latency [--queries 200]

The floor is the time in which the weights of the linear layers can be read from memory once, which every question must
do on a CPU whose cache does not hold them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import runtimes
from benchmarks.encoder import docstrings, shape_of
from benchmarks.peers import least_cosine, load_peers, required_cosine
from benchmarks.report import add_common_options, agreement, markdown_table, publish, spread_dict
from benchmarks.timing import Spread, latencies, percentile
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.types import FloatArray

OURS = "ours"
PARTS = 5
"""Into so many parts the questions are put for the spread of a ratio."""


def questions(count: int) -> list[str]:
    """First sentences of the docstrings, 6 to 20 words each."""
    found = dict.fromkeys(text.strip().split(".")[0].replace("\n", " ") for text in docstrings())
    return [text for text in found if 6 <= len(text.split()) <= 20][:count]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the peers on the same questions."""
    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    texts = questions(options.queries)
    (peer,) = load_peers(options.model, "cpu", [32], encoder.query_prompt)[:1]
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[str], FloatArray]] = {
            OURS: lambda text: encoder.encode_queries([text]).vectors,
            "SentenceTransformer.encode": lambda text: peer.encode([text]),
        }
        if options.runtimes:
            runtimes.export(Path(folder))
            made = {"fastembed": runtimes.fastembed, "ONNX Runtime": runtimes.onnx_runtime}
            for name, make in {**made, "OpenVINO": runtimes.openvino}.items():
                calls[name] = _one(make(Path(folder)))
        seconds = latencies(calls, texts, rounds=options.repeats)
        vectors = {name: np.concatenate([call(text) for text in texts[:20]]) for name, call in calls.items()}
    ours = seconds[OURS]
    return {
        "benchmark": "latency",
        "model": encoder.name,
        "queries": len(texts),
        "tokens": float(np.mean([len(row) for row in encoder.tokenizer.tokenize(texts)])) + 2,
        "p50_ms": {name: percentile(times, 0.5) * 1e3 for name, times in seconds.items()},
        "p99_ms": {name: percentile(times, 0.99) * 1e3 for name, times in seconds.items()},
        "share": {name: spread_dict(_share(ours, times)) for name, times in seconds.items() if name != OURS},
        "floor_ms": _reading_ms(encoder),
        "least_cosine": min(least_cosine(vectors[OURS], vectors[name]) for name in vectors),
        "required_cosine": required_cosine(encoder.device),
    }


def _one(encode: runtimes.Encode) -> Callable[[str], FloatArray]:
    return lambda text: encode([text])


def _share(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of our median in theirs, over consecutive parts of the run."""
    parts = zip(np.array_split(ours, PARTS), np.array_split(theirs, PARTS), strict=True)
    return Spread.of([float(np.median(one) / np.median(other)) for one, other in parts])


def _reading_ms(encoder: SentenceTransformerEncoder, repeats: int = 30) -> float:
    """Milliseconds to read as many bytes as the linear layers have, when the cache holds something else."""
    layers, hidden, inner = shape_of(encoder)
    numbers = layers * (4 * hidden * hidden + 2 * hidden * inner)
    blocks = [torch.ones(numbers) for _ in range(8)]
    seconds = latencies({"read": lambda block: block.sum()}, blocks, rounds=repeats)["read"]
    return percentile(seconds, 0.5) * 1e3


def render(result: Mapping[str, Any]) -> str:
    """The table, the check and the floor."""
    rows = []
    for name, p50 in result["p50_ms"].items():
        share = result["share"].get(name)
        rows.append([name, f"{p50:.2f}", f"{result['p99_ms'][name]:.2f}", Spread(*share.values()) if share else ""])
    return "\n".join(
        [
            f"{result['model']}: {result['queries']} questions of {result['tokens']:.0f} tokens, one at a time",
            "",
            markdown_table(["", "p50, ms", "p99, ms", "ours / this, p50"], rows),
            "",
            agreement(result["least_cosine"], result["required_cosine"]),
            f"Reading the weights from memory once takes {result['floor_ms']:.2f} ms.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description="One question at a time.")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--runtimes", action="store_true", help="fastembed, ONNX Runtime and OpenVINO, too")
    add_common_options(parser, repeats=5)
    options = parser.parse_args(arguments)
    result = measure(options)
    publish(result, render(result), options.json)
    return 0 if result["least_cosine"] >= result["required_cosine"] else 1


if __name__ == "__main__":
    sys.exit(main())

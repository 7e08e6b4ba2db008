"""The encoder against ``SentenceTransformer.encode`` over batch sizes, on texts of mixed lengths.

    python -m benchmarks.encoder [--device cuda] [--texts 1000] [--sweep]

The texts are cut from the docstrings of Python's own library, with log-normal lengths: the same for everyone with the
same Python. On CUDA the peer runs in single precision, its default, and in bfloat16, which is ours. ``--sweep`` tries
token budgets for ours instead of batch sizes for the peer. Tokens are real ones: padding does not count.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Peer, default_peer, least_cosine, load_peers, required_cosine
from benchmarks.report import add_common_options, agreement, markdown_table, publish, spread_dict
from benchmarks.timing import Spread, interleave
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.encoders.token_batches import TOKEN_BUDGET
from tarragon.protocols import EncoderInput

BATCHES = (8, 16, 32, 64, 128, 256)
BUDGETS = {
    "cpu": (512, 1_024, 2_048, 4_096, 8_192, 16_384),
    "cuda": (8_192, 16_384, 32_768, 65_536, 131_072, 262_144),
    "mps": (2_048, 4_096, 8_192, 16_384, 32_768),
}
OURS = "ours"
GIVEN_IDS = "ours, token ids given"

MEDIAN_WORDS, SPREAD, FEWEST, MOST = 60, 0.8, 5, 150
"""Log-normal lengths in words, within what all-MiniLM-L6-v2 can take."""


def mixed_texts(count: int, seed: int = 0) -> list[str]:
    """Consecutive words of the docstrings, cut into texts of mixed lengths."""
    words = cycle(word for docstring in docstrings() for word in docstring.split())
    lengths = np.random.default_rng(seed).lognormal(np.log(MEDIAN_WORDS), SPREAD, count)
    return [" ".join(islice(words, int(length))) for length in np.clip(lengths, FEWEST, MOST)]


def docstrings() -> Iterator[str]:
    """Those of the modules at the top of Python's library, in order."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes
            tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                yield text


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Ours against the peer in each of its batch sizes."""
    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    texts = mixed_texts(options.texts)
    plain = [EncoderInput(text) for text in texts]
    with_ids = [EncoderInput(text, ids) for text, ids in zip(texts, encoder.tokenizer.tokenize(texts), strict=True)]
    peers = {peer.name: peer for peer in load_peers(options.model, encoder.device, BATCHES, encoder.document_prompt)}
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: encoder.encode_documents(plain),
        GIVEN_IDS: lambda: encoder.encode_documents(with_ids),
        **{name: _encoding(peer, texts) for name, peer in peers.items()},
    }
    timings = interleave(calls, rounds=options.repeats)
    embeddings = encoder.encode_documents(plain)
    best = min(peers, key=timings.median)
    cosines = {name: least_cosine(embeddings.vectors, peers[name].encode(texts)) for name in peers}
    return {
        **_about(encoder, texts, embeddings.tokens, embeddings.truncated),
        "tokens_per_second": {name: embeddings.tokens / timings.median(name) for name in calls},
        "speedup": {name: spread_dict(timings.speedup(OURS, name)) for name in calls if name != OURS},
        "default_peer": default_peer(list(peers.values())).name,
        "best_peer": best,
        "least_cosine": min(cosines.values()),
        "required_cosine": required_cosine(encoder.device),
        "seconds": dict(timings.seconds),
    }


def measure_budgets(options: argparse.Namespace) -> dict[str, Any]:
    """Ours with each token budget; the speedup is of the default one over each."""
    first = SentenceTransformerEncoder(options.model, device=options.device)
    kind = first.device.split(":")[0]
    texts = mixed_texts(options.texts)
    plain = [EncoderInput(text) for text in texts]
    budgets = sorted({*BUDGETS[kind], TOKEN_BUDGET[kind]})
    encoders = [SentenceTransformerEncoder(options.model, device=options.device, token_budget=each) for each in budgets]

    def call(encoder: SentenceTransformerEncoder) -> Callable[[], object]:
        return lambda: encoder.encode_documents(plain)

    calls = {f"{budget} tokens": call(encoder) for budget, encoder in zip(budgets, encoders, strict=True)}
    timings = interleave(calls, rounds=options.repeats)
    embeddings = first.encode_documents(plain)
    chosen = f"{TOKEN_BUDGET[kind]} tokens"
    return {
        **_about(first, texts, embeddings.tokens, embeddings.truncated),
        "sweep": "token budget",
        "tokens_per_second": {name: embeddings.tokens / timings.median(name) for name in calls},
        "speedup": {name: spread_dict(timings.speedup(chosen, name)) for name in calls if name != chosen},
        "seconds": dict(timings.seconds),
    }


def _about(encoder: SentenceTransformerEncoder, texts: Sequence[str], tokens: int, truncated: int) -> dict[str, Any]:
    return {
        "benchmark": "encoder",
        "model": encoder.name,
        "device": encoder.device,
        "texts": len(texts),
        "tokens": tokens,
        "tokens_truncated": truncated,
    }


def _encoding(peer: Peer, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: peer.encode(texts)


def render(result: Mapping[str, Any]) -> str:
    """The table and the check."""
    rows = []
    for name, rate in result["tokens_per_second"].items():
        ratio = result["speedup"].get(name)
        rows.append([name, f"{rate:,.0f}", Spread(*ratio.values()) if ratio else ""])
    reference = "default" if "sweep" in result else OURS
    lines = [
        f"{result['model']} on {result['device']}: {result['texts']} texts, {result['tokens']} tokens",
        "",
        markdown_table(["", "tokens/s", f"{reference} / this"], rows),
    ]
    if "least_cosine" in result:
        lines += ["", agreement(result["least_cosine"], result["required_cosine"])]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description="Tokens per second.")
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--sweep", action="store_true", help="try token budgets for ours")
    add_common_options(parser, repeats=6)
    options = parser.parse_args(arguments)
    result = measure_budgets(options) if options.sweep else measure(options)
    publish(result, render(result), options.json)
    return 0 if result.get("least_cosine", 1) >= result.get("required_cosine", 0) else 1


if __name__ == "__main__":
    sys.exit(main())

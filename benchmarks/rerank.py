"""A question against 50 passages of some 180 tokens: our cross-encoder beside sentence-transformers' own.

    python -m benchmarks.rerank [--pairs 50]

The model has the shape of ms-marco-MiniLM-L6-v2 and random weights, since no trained one can be had without a model
hub: the time is the same, the scores mean nothing but that both sides agree. ``again`` is a second question over the
same passages, whose ids are known from the first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging as transformers_logging

from benchmarks.encoder import docstrings
from benchmarks.floors import matrix_rates, operations_a_token
from benchmarks.report import add_common_options, markdown_table, publish, spread_dict
from benchmarks.timing import Spread, interleave
from tarragon.encoders.bundled import bundled_model_path
from tarragon.rerankers.cross_encoder import SentenceTransformerReranker

OURS, AGAIN = "ours, passages not seen before", "ours, again"
SHAPE = (6, 384, 1_536)
"""Layers, hidden and inner size of MiniLM-L6."""

QUERY = "How do I rotate the signing key before it expires?"
TOLERANCE = 1e-4
"""Between scores, after the sigmoid."""


def make_model(folder: Path) -> Path:
    """MiniLM-L6 with a head for one score, in random weights, with the bundled model's tokenizer."""
    torch.manual_seed(0)
    layers, hidden, inner = SHAPE
    config = BertConfig(num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner, num_attention_heads=12)
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source := bundled_model_path() / name).is_file():
            shutil.copy(source, folder)
    return folder


def passages(count: int, words: int = 115) -> list[str]:
    """Consecutive words of the docstrings; 115 of them have some 180 tokens, 20 more or less in each."""
    every = " ".join(docstrings()).split()
    lengths = np.random.default_rng(0).integers(words - 20, words + 21, count)
    ends = np.cumsum(lengths)
    return [" ".join(every[end - length : end]) for length, end in zip(lengths, ends, strict=True)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the library's, scores compared."""
    texts = passages(options.pairs)
    pairs = [(QUERY, text) for text in texts]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        path = str(make_model(Path(folder)))
        ours = SentenceTransformerReranker(path, device="cpu")
        cold = [SentenceTransformerReranker(path, device="cpu") for _ in range(options.repeats + 1)]
        theirs = CrossEncoder(path, device="cpu", max_length=512)
        fresh = iter(cold)
        calls: dict[str, Callable[[], object]] = {
            OURS: lambda: next(fresh).score(QUERY, texts),
            AGAIN: lambda: ours.score(QUERY, texts),
            **{f"CrossEncoder.predict, batch {size}": _predicting(theirs, pairs, size) for size in (8, 32)},
        }
        timings = interleave(calls, rounds=options.repeats)
        made = ours.score(QUERY, texts)
        gap = float(np.abs(np.array(made.scores) - theirs.predict(pairs, show_progress_bar=False)).max())
    lengths = [made.tokens // len(texts)] * len(texts)
    operations = operations_a_token(*SHAPE, lengths) * made.tokens
    return {
        "benchmark": "rerank",
        "pairs": len(texts),
        "tokens": made.tokens,
        "seconds": {name: timings.median(name) for name in calls},
        "speedup": {name: spread_dict(timings.speedup(OURS, name)) for name in calls if name != OURS},
        "share_of_floor": {name: operations / flops / timings.median(OURS) for name, flops in matrix_rates().items()},
        "gap": gap,
    }


def _predicting(model: Any, pairs: Sequence[tuple[str, str]], size: int) -> Callable[[], object]:
    return lambda: model.predict(pairs, batch_size=size, show_progress_bar=False)


def render(result: Mapping[str, Any]) -> str:
    """The table and the check."""
    rows = []
    for name, seconds in result["seconds"].items():
        ratio = result["speedup"].get(name)
        rows.append([name, f"{seconds * 1e3:.0f}", Spread(*ratio.values()) if ratio else ""])
    agrees = "agree" if result["gap"] <= TOLERANCE else "DISAGREE, so the speed does not count"
    shares = "; ".join(f"{share:.2f} of {name}" for name, share in result["share_of_floor"].items())
    return "\n".join(
        [
            f"{result['pairs']} pairs, {result['tokens']} tokens, MiniLM-L6's shape",
            "",
            markdown_table(["", "ms", f"{OURS} is so many times as fast"], rows),
            "",
            f"Scores {agrees}: greatest difference {result['gap']:.1e}. Ours reaches {shares}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rerank", description="Cross-encoders.")
    parser.add_argument("--pairs", type=int, default=50)
    add_common_options(parser, repeats=6)
    options = parser.parse_args(arguments)
    result = measure(options)
    publish(result, render(result), options.json)
    return 0 if result["gap"] <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

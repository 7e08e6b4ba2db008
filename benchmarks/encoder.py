"""The encoder against ``SentenceTransformer.encode`` over batch sizes, on texts of mixed lengths.

    python -m benchmarks.encoder [--device cuda] [--texts 1000] [--sweep]

The texts are cut from the docstrings of Python's own library, with log-normal lengths: the same for everyone with the
same Python. On CUDA the peer runs in single precision, its default, and in bfloat16, which is ours. ``--runtimes`` adds
fastembed, ONNX Runtime and OpenVINO with the same weights; ``--sweep`` tries token budgets for ours instead of batch
sizes for the peer. Tokens are real ones: padding does not count. On the CPU the rate is also given as a share of what
matrix products of the model's shapes reach in the same run.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runtimes
from benchmarks.floors import matrix_rates, operations_a_token
from benchmarks.peers import default_peer, least_cosine, load_peers, required_cosine
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
    batches = options.batches or BATCHES
    peers = {peer.name: peer for peer in load_peers(options.model, encoder.device, batches, encoder.document_prompt)}
    encoders: dict[str, runtimes.Encode] = {name: peer.encode for name, peer in peers.items()}
    with tempfile.TemporaryDirectory() as folder:
        encoders |= _runtimes(Path(folder)) if options.runtimes else {}
        calls: dict[str, Callable[[], object]] = {
            OURS: lambda: encoder.encode_documents(plain),
            GIVEN_IDS: lambda: encoder.encode_documents(with_ids),
            **{name: partial(encode, texts) for name, encode in encoders.items()},
        }
        timings = interleave(calls, rounds=options.repeats)
        embeddings = encoder.encode_documents(plain)
        best = min(peers, key=timings.median)
        cosines = {name: least_cosine(embeddings.vectors, encode(texts)) for name, encode in encoders.items()}
    lengths = [len(ids) + 2 for ids in encoder.tokenizer.tokenize(texts)]
    return {
        **_about(encoder, texts, embeddings.tokens, embeddings.truncated),
        "tokens_per_second": {name: embeddings.tokens / timings.median(name) for name in calls},
        "speedup": {name: spread_dict(timings.speedup(OURS, name)) for name in calls if name != OURS},
        "default_peer": default_peer(list(peers.values())).name,
        "best_peer": best,
        "least_cosine": min(cosines.values()),
        "required_cosine": required_cosine(encoder.device),
        "seconds": dict(timings.seconds),
        **(_floor(encoder, lengths, embeddings.tokens / timings.median(OURS)) if encoder.device == "cpu" else {}),
    }


def _floor(encoder: SentenceTransformerEncoder, lengths: Sequence[int], rate: float) -> dict[str, Any]:
    """How near the rate comes to that of matrix products alone, and where the time goes."""
    operations = operations_a_token(*shape_of(encoder), lengths)
    return {
        "operations_per_token": operations,
        "share_of_floor": {name: rate * operations / flops for name, flops in matrix_rates().items()},
        "flops": matrix_rates(),
    }


def shape_of(encoder: SentenceTransformerEncoder) -> tuple[int, int, int]:
    """Layers, hidden and inner size."""
    transformer: Any = encoder._model[0]
    config = transformer.auto_model.config
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size


def _runtimes(folder: Path) -> dict[str, runtimes.Encode]:
    runtimes.export(folder)
    made = {"fastembed, batch 256": runtimes.fastembed(folder)}
    made["ONNX Runtime, exact lengths, batch 8"] = runtimes.onnx_runtime(folder)
    return {**made, "OpenVINO, exact lengths, batch 8": runtimes.openvino(folder)}


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
    for name, share in result.get("share_of_floor", {}).items():
        lines.append(f"Ours is at {share:.2f} of {result['flops'][name] / 1e9:.0f} GFLOP/s ({name}).")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder", description="Tokens per second.")
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--batches", type=int, nargs="+", help=f"of the peer ({', '.join(map(str, BATCHES))})")
    parser.add_argument("--runtimes", action="store_true", help="fastembed, ONNX Runtime and OpenVINO, too")
    parser.add_argument("--sweep", action="store_true", help="try token budgets for ours")
    add_common_options(parser, repeats=6)
    options = parser.parse_args(arguments)
    result = measure_budgets(options) if options.sweep else measure(options)
    publish(result, render(result), options.json)
    return 0 if result.get("least_cosine", 1) >= result.get("required_cosine", 0) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Chunkers, judged by the characters that they bring: the published chunking evaluation, through the public API.

    python -m evals.chunkers DATASET_DIR --json evals/results/chunkers.json

Smith and Troynikov, "Evaluating Chunking Strategies for Retrieval", 2024, cut five long documents and score the first
five chunks for each of 472 questions. Their fixed-size splitter is repeated here: windows over the tokens of cl100k,
each a document of an index without a chunker, searched by all-MiniLM-L6-v2 alone. Our own chunker stands beside it.

cl100k is read from llama-index-core, which has a copy of it and is in ``tarragon[bench]``. Without, windows are of the
model's own tokens, and the table is not the published one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from evals.beir import DatasetError
from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.lines import json_lines, string
from tarragon.evaluation.running import run
from tarragon.evaluation.spans import RETRIEVED, Range, score_spans
from tarragon.evaluation.types import GoldenSet, Question, Ranked, Run, Scores, Span
from tarragon.protocols import DenseEncoder

Ends: TypeAlias = Callable[[str], Sequence[int]]
"""A text → where each of its tokens ends, in characters, ascending."""

PUBLISHED = {
    (200, 0): (76.6, 4.1, 4.1, 19.1),
    (250, 0): (77.1, 3.3, 3.3, 16.4),
    (250, 125): (82.4, 3.6, 3.5, 11.4),
}
"""TokenTextSplitter with all-MiniLM-L6-v2: size and overlap → recall, precision, IoU, precision Ω in per cent. The
standard deviations over the questions, which the publication gives too, are about 38, 3.3, 3.3 and 9."""

SIZES = ((200, 0), (250, 0), (250, 125), (400, 0), (800, 0), (800, 400))
OWN = (128, 200, 250)
DENSE = SearchRecipe(mode="dense")


@dataclass(frozen=True, slots=True)
class Row:
    """A chunker, scored.

    Attributes:
        chunker: In words.
        chunks: How many it made.
        means: Metric → mean over the questions.
        published: The same four, in per cent, where there are published ones.
    """

    chunker: str
    chunks: int
    means: Mapping[str, float]
    published: tuple[float, ...] = ()


def read(folder: Path) -> tuple[dict[str, str], GoldenSet]:
    """The long documents, and the questions with the characters that answer them."""
    texts = {
        string(record, "_id", place): string(record, "text", place)
        for place, record in json_lines(folder / "documents.jsonl", DatasetError)
    }
    questions = []
    for place, record in json_lines(folder / "spans.jsonl", DatasetError):
        document, spans = string(record, "doc", place), record["references"]
        if any(texts[document][span["start"] : span["end"]] != span["text"] for span in spans):
            place.refuse(f"a reference is not in {document!r} where it should be")
        found = tuple(Span(document, span["start"], span["end"]) for span in spans)
        questions.append(Question(string(record, "query_id", place), string(record, "question", place), spans=found))
    return texts, golden_set(folder.resolve().name, questions)


def windows(ends: Sequence[int], size: int, overlap: int) -> list[Range]:
    """Windows of ``size`` tokens, each beginning ``overlap`` before the one before ends; the last may be shorter."""
    found = []
    for first in range(0, len(ends), size - overlap):
        last = min(first + size, len(ends))
        start = ends[first - 1] if first else 0
        if start < ends[last - 1]:
            found.append((start, ends[last - 1]))
        if last == len(ends):
            break
    return found


def fixed(
    texts: Mapping[str, str], golden: GoldenSet, ends: Ends, size: int, overlap: int, encoder: DenseEncoder | None
) -> Row:
    """The fixed-size splitter: each window a whole document, so that no chunker of ours has a hand in it."""
    cuts = {
        f"{id_}:{start}-{end}": Ranked(id_, 0.0, f"{id_}:{start}-{end}", start, end)
        for id_, text in texts.items()
        for start, end in windows(ends(text), size, overlap)
    }
    documents = [
        Document(name, texts[cut.document_id][cut.start : cut.end], format="text") for name, cut in cuts.items()
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        Index.open(f"{folder}/i.tarragon", recipe=IndexRecipe(chunking="whole"), encoder=encoder) as index,
    ):
        index.sync([document for document in documents if document.text.strip()])
        found = run(index, golden, k=RETRIEVED, recipe=DENSE)
    rankings = {id_: tuple(cuts[place.document_id] for place in ranking) for id_, ranking in found.rankings.items()}
    scores = score_spans(Run(found.name, rankings), golden, chunks=cuts.values())
    return _row(f"fixed {size}/{overlap}", len(cuts), scores, PUBLISHED.get((size, overlap), ()))


def own(texts: Mapping[str, str], golden: GoldenSet, tokens: int, encoder: DenseEncoder | None) -> Iterator[Row]:
    """Our own chunker, searched by vectors and as a user would."""
    recipe = IndexRecipe(chunk_tokens=tokens)
    with (
        tempfile.TemporaryDirectory() as folder,
        Index.open(f"{folder}/i.tarragon", recipe=recipe, encoder=encoder) as index,
    ):
        index.sync([Document(id_, text, format="text") for id_, text in texts.items()])
        chunks = index.status().chunks
        for mode in ("dense", "hybrid"):
            found = run(index, golden, k=RETRIEVED, recipe=SearchRecipe(mode=mode))
            yield _row(f"ours {tokens}, {mode}", chunks, score_spans(found, golden))


def _row(chunker: str, chunks: int, scores: Scores, published: tuple[float, ...] = ()) -> Row:
    return Row(chunker, chunks, {name: round(mean.mean, 4) for name, mean in scores.means.items()}, published)


def cl100k() -> Ends | None:
    """Ends of cl100k's tokens; None where it is not installed. A token that ends within a character ends before it."""
    package = importlib.util.find_spec("llama_index")
    places = (
        [Path(place) / "core/_static/tiktoken_cache" for place in (package.submodule_search_locations or ())]
        if package
        else []
    )
    cache = next((place for place in places if place.is_dir()), None)
    if cache is None or importlib.util.find_spec("tiktoken") is None:
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
    import tiktoken

    encoding = tiktoken.get_encoding("cl100k_base")

    def ends(text: str) -> list[int]:
        _, starts = encoding.decode_with_offsets(encoding.encode_ordinary(text))
        return [*starts[1:], len(text)]

    return ends


def own_tokens() -> Ends:
    """Ends of the bundled model's tokens."""
    from tokenizers import Tokenizer

    from tarragon.encoders.bundled import bundled_model_path

    tokenizer = Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: [*(end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets[:-1]), len(text)]


def evaluate(
    folder: Path,
    sizes: Sequence[tuple[int, int]] = SIZES,
    own_sizes: Sequence[int] = OWN,
    *,
    ends: Ends | None = None,
    encoder: DenseEncoder | None = None,
) -> dict[str, Any]:
    """Score every chunker; ``ends`` and ``encoder`` instead of cl100k and the bundled model."""
    texts, golden = read(folder)
    tokens = "given" if ends else "cl100k"
    if ends is None and (ends := cl100k()) is None:
        tokens, ends = "the model's", own_tokens()
    rows = []
    for row in _rows(texts, golden, ends, sizes, own_sizes, encoder):
        print(_line(asdict(row)), file=sys.stderr, flush=True)  # it takes a while
        rows.append(row)
    return {
        "dataset": golden.name,
        "questions": len(golden.questions),
        "tokens": tokens,
        "count": {id_: len(ends(text)) for id_, text in texts.items()},
        "rows": [asdict(row) for row in rows],
    }


def _rows(
    texts: Mapping[str, str],
    golden: GoldenSet,
    ends: Ends,
    sizes: Sequence[tuple[int, int]],
    own_sizes: Sequence[int],
    encoder: DenseEncoder | None,
) -> Iterator[Row]:
    for size, overlap in sizes:
        yield fixed(texts, golden, ends, size, overlap, encoder)
    for size in own_sizes:
        yield from own(texts, golden, size, encoder)


def table(result: Mapping[str, Any]) -> str:
    """In Markdown; published figures in brackets."""
    lines = [
        f"{result['dataset']}: {result['questions']} questions, tokens of windows: {result['tokens']}",
        "",
        "| chunker | chunks | recall | precision | IoU | precision Ω |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *map(_line, result["rows"])])


def _line(row: Mapping[str, Any]) -> str:
    cells = [f"{100 * value:.1f}" for value in row["means"].values()]
    for place, value in enumerate(row["published"]):
        cells[place] += f" ({value})"
    return f"| {row['chunker']} | {row['chunks']:,} | {' | '.join([*cells, ''][:4])} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m evals.chunkers", description="Score chunkers by characters.")
    parser.add_argument("dataset", type=Path, metavar="DATASET_DIR", help="with documents.jsonl and spans.jsonl")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    result = evaluate(options.dataset)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

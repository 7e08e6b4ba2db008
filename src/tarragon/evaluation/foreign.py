"""Golden sets of other tools: TREC judgements, and LlamaIndex's EmbeddingQAFinetuneDataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tarragon.errors import InvalidGolden
from tarragon.evaluation.lines import Place, halved, lines, read_text, whole
from tarragon.evaluation.questions import golden_set
from tarragon.evaluation.types import GoldenSet, Question
from tarragon.types import Document


def read_trec(qrels: str | Path, queries: str | Path) -> GoldenSet:
    """TREC judgements, ``query iteration document grade`` a line, with the texts of their queries.

    Queries without a relevant document are left out. A negative grade is not relevant.

    Args:
        qrels: The judgements.
        queries: Ids and texts, a tab between them; the order of the set.

    Raises:
        InvalidGolden: A line is malformed, or a judged query has no text.
    """
    judged = {id_: grades for id_, grades in _judgements(Path(qrels)).items() if max(grades.values()) > 0}
    texts: dict[str, str] = {}
    for place, line in lines(Path(queries), InvalidGolden):
        id_, tab, text = line.partition("\t")
        if not tab or not id_.strip() or not text.strip():
            place.refuse("an id, a tab and a text are needed")
        if texts.setdefault(id_.strip(), text.strip()) != text.strip():
            place.refuse(f"a second query with the id {id_.strip()!r}")
    if unknown := sorted(judged.keys() - texts.keys()):
        Place(Path(queries), 0, InvalidGolden).refuse(f"query {unknown[0]!r} is judged in {qrels} and has no text")
    return golden_set(Path(qrels).stem, [Question(id_, texts[id_], judged[id_]) for id_ in texts if id_ in judged])


def read_llama_index(path: str | Path) -> GoldenSet:
    """An EmbeddingQAFinetuneDataset as LlamaIndex saves it. `llama_index_corpus` has its nodes as documents.

    Raises:
        InvalidGolden: It is malformed, or a query has no relevant node or one that is not in the corpus.
    """
    path = Path(path)
    text, data = _dataset(path)
    corpus, relevant = data["corpus"], data["relevant_docs"]
    questions = []
    for id_, query in data["queries"].items():
        place = _place(path, text, id_)
        nodes = relevant.get(id_)
        if not isinstance(query, str) or not query.strip():
            place.refuse(f"query {id_!r} has no text")
        if not isinstance(nodes, list) or not nodes:
            place.refuse(f"query {id_!r} has no list of nodes under 'relevant_docs'")
        if unknown := [node for node in nodes if not isinstance(node, str) or node not in corpus]:
            place.refuse(f"query {id_!r}: the relevant node {unknown[0]!r} is not under 'corpus'")
        questions.append(Question(id_, query, dict.fromkeys(nodes, 1)))
    return golden_set(path.stem, questions)


def llama_index_corpus(path: str | Path) -> Iterator[Document]:
    """The nodes of an EmbeddingQAFinetuneDataset, each a document under its node id.

    Raises:
        InvalidGolden: It is malformed.
    """
    text, data = _dataset(Path(path))
    for id_, content in data["corpus"].items():
        if not isinstance(content, str):
            _place(Path(path), text, id_).refuse(f"node {id_!r} must have a text, not a {type(content).__name__}")
        yield Document(id_, content, format="text")


def _dataset(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    text = read_text(path, InvalidGolden)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as problem:
        Place(path, problem.lineno, InvalidGolden).refuse(f"not JSON: {problem.msg} at column {problem.colno}")
    except RecursionError:
        Place(path, 1, InvalidGolden).refuse("not JSON: nested too deeply")
    if halved(text, data):
        Place(path, 1, InvalidGolden).refuse("holds half of a surrogate pair, which is no character")
    for key in ("queries", "corpus", "relevant_docs"):
        if not isinstance(data, dict) or not isinstance(data.get(key), dict):
            Place(path, 1, InvalidGolden).refuse(f"an EmbeddingQAFinetuneDataset has an object under {key!r}")
    return text, data


def _place(path: Path, text: str, key: str) -> Place:
    """The line of a key: where its spelling first stands."""
    found = text.find(f"{json.dumps(key)}:")
    return Place(path, text.count("\n", 0, max(found, 0)) + 1, InvalidGolden)


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    judgements: dict[str, dict[str, int]] = {}
    for place, line in lines(path, InvalidGolden):
        fields = line.split()
        if len(fields) != 4:
            place.refuse(f"'query iteration document grade' are needed, these are {len(fields)} fields: {line!r}")
        grade = whole(fields[3], place, "the grade")
        if judgements.setdefault(fields[0], {}).setdefault(fields[2], grade) != grade:
            place.refuse(f"judged before, with another grade: {line!r}")
    return judgements

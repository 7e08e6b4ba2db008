"""An existing LlamaIndex program, and the same with its retriever swapped for Tarragon's.

    python swap.py

Prints the lines that differ, what both find with the same documents and the same embedding model, and what an edit
costs. The embedding model alone takes E4402 for E4403; going by words as well tells them apart. For "get the data back"
the words mislead, as "back" stands in "rolled back", and in twelve texts nearly every word is rare.
"""

from __future__ import annotations

import difflib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from llama_index.core import Document
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.retrievers.tarragon import TarragonEmbedding, TarragonRetriever
from quoting_llm import QuotingLLM

TEXTS = {
    "deploy": "Releases are deployed on Tuesdays. A deployment is rolled back with one command within five minutes.",
    "E4402": "Error E4402 means that the lease of a worker has expired; restart the worker.",
    "E4403": "Error E4403 means that the queue is full; add workers or wait.",
    "E4417": "Error E4417 means that a message was too large; split it.",
    "keys": "The signing key is rotated every April. The old key is valid for one more hour.",
    "leaks": "A key that has leaked is revoked at once; clients refuse it within five minutes.",
    "backup": "The database is copied to cold storage every night at three.",
    "restore": "To restore, stop the writers first. A terabyte takes about an hour.",
    "pager": "The engineer on call answers pages within ten minutes.",
    "vacation": "Vacation is requested two weeks ahead in the staff portal.",
    "lunch": "Lunch is served at noon; the kitchen closes at two.",
    "zk-71": "The cluster zk-71 holds the leases. It has five members in three rooms.",
}
QUESTIONS = [
    "what does E4403 mean?",
    "E4403",
    "who looks after zk-71?",
    "when can I eat?",
    "can I undo a release?",
    "get the data back",
]


# Imports are inside, so that all that differs is here.
def before(documents: list[Document], embed_model: TarragonEmbedding, path: Path) -> RetrieverQueryEngine:
    from llama_index.core import VectorStoreIndex

    index = VectorStoreIndex.from_documents(documents, embed_model=embed_model)
    retriever = index.as_retriever(similarity_top_k=3)
    return RetrieverQueryEngine.from_args(retriever, llm=QuotingLLM())


def after(documents: list[Document], embed_model: TarragonEmbedding, path: Path) -> RetrieverQueryEngine:
    from llama_index.retrievers.tarragon import TarragonRetriever

    retriever = TarragonRetriever.from_documents(documents, path, encoder=embed_model.encoder, similarity_top_k=3)
    return RetrieverQueryEngine.from_args(retriever, llm=QuotingLLM())


def changed_lines() -> list[str]:
    """What differs between the two programs, below their first lines."""
    old, new = (_body(program) for program in (before, after))
    return [line for line in difflib.unified_diff(old, new, lineterm="", n=0) if line[:3] not in ("---", "+++", "@@ ")]


def _body(program: Callable[..., RetrieverQueryEngine]) -> list[str]:
    return [line.strip() for line in inspect.getsource(program).splitlines()[1:] if line.strip()]


def run(embed_model: TarragonEmbedding, path: Path) -> Iterator[str]:
    """The lines, the table of hits, and what an edit costs."""
    yield from changed_lines()
    documents = [Document(text=text, id_=id_) for id_, text in TEXTS.items()]
    programs = [program(documents, embed_model, path) for program in (before, after)]
    yield f"\n{'question':<30}{'before':<30}after"
    for question in QUESTIONS:
        found = [[str(one.node.ref_doc_id) for one in engine.query(question).source_nodes] for engine in programs]
        yield f"{question:<30}{' '.join(found[0]):<30}{' '.join(found[1])}"

    asked = "when is the signing key rotated?"
    yield f"\n{asked} {programs[1].query(asked)}"
    documents[list(TEXTS).index("keys")].set_content(TEXTS["keys"].replace("April", "October"))
    with programs[1].retriever as retriever:
        assert isinstance(retriever, TarragonRetriever)
        report = retriever.sync(documents)
        yield f"after an edit: {programs[1].query(asked)}"
        counts = f"{report.documents_changed} document changed, {report.documents_unchanged} unchanged"
        yield f"{counts}: {report.chunks_embedded} text embedded, {report.tokens_embedded} tokens"


if __name__ == "__main__":
    embedding = TarragonEmbedding()  # all-MiniLM-L6-v2, which comes with tarragon[bundled]
    with tempfile.TemporaryDirectory() as temporary:
        for line in run(embedding, Path(temporary, "handbook.tarragon")):
            print(line)

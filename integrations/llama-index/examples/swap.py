"""An existing LlamaIndex program whose retriever is swapped for Tarragon in three changed lines:

    -from llama_index.core import VectorStoreIndex
    +from llama_index.retrievers.tarragon import TarragonRetriever
    -index = VectorStoreIndex.from_documents(documents)
    -retriever = index.as_retriever(similarity_top_k=3)
    +retriever = TarragonRetriever.from_documents(documents, "handbook.tarragon", similarity_top_k=3)

Below both stand side by side, with the same documents and the same embedding model, and print what they find:

    python swap.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
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
QUESTIONS = ["what does E4403 mean?", "zk-71", "how often are keys changed?", "when can I eat?", "get the data back"]


def documents() -> list[Document]:
    """What is searched."""
    return [Document(text=text, id_=id_) for id_, text in TEXTS.items()]


def before(embed_model: TarragonEmbedding) -> BaseRetriever:
    """The program as it was."""
    index = VectorStoreIndex.from_documents(documents(), embed_model=embed_model)
    return index.as_retriever(similarity_top_k=3)


def after(embed_model: TarragonEmbedding, path: Path) -> TarragonRetriever:
    """The program as it is now."""
    return TarragonRetriever.from_documents(documents(), path, encoder=embed_model.encoder, similarity_top_k=3)


def ranks(retriever: BaseRetriever, questions: Sequence[str]) -> list[str]:
    """The documents that are found for each question, best first."""
    return [" ".join(str(one.node.ref_doc_id) for one in retriever.retrieve(question)) for question in questions]


def run(embed_model: TarragonEmbedding, path: Path) -> list[str]:
    """The table of hits, and what an edit costs."""
    old, new = before(embed_model), after(embed_model, path)
    lines = [f"{'question':<30}{'before':<30}after"]
    for question, one, other in zip(QUESTIONS, ranks(old, QUESTIONS), ranks(new, QUESTIONS), strict=True):
        lines.append(f"{question:<30}{one:<30}{other}")
    edited = documents()
    edited[4].set_content("The signing key is rotated every October. The old key is valid for one more hour.")
    report = new.sync(edited)
    answer = RetrieverQueryEngine.from_args(new, llm=QuotingLLM()).query("when is the signing key rotated?")
    lines.append(f"after an edit: {report.chunks_embedded} of {len(edited)} texts embedded; {answer}")
    new.close()
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print("\n".join(run(TarragonEmbedding(), Path(temporary) / "swap.tarragon")))

"""Per-tenant scope inside a chat engine: one index, and no tenant ever sees another's passages.

python tenants.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import LLM
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.retrievers.tarragon import TarragonRetriever
from quoting_llm import QuotingLLM

from tarragon import Document, Index, Retriever
from tarragon.errors import InvalidInput
from tarragon.protocols import DenseEncoder

DOCUMENTS = [
    Document("acme/keys", "At Acme the signing key is rotated every April.", {"tenant": "acme"}),
    Document("acme/backup", "Acme copies its database every night.", {"tenant": "acme"}),
    Document("globex/keys", "At Globex the signing key is rotated every October.", {"tenant": "globex"}),
    Document("globex/plans", "Globex plans to buy Acme in spring.", {"tenant": "globex"}),
]
QUESTION = "when is the signing key rotated?"


@contextmanager
def assistant(retriever: Retriever, tenant: str, llm: LLM) -> Iterator[ContextChatEngine]:
    """A chat engine for one tenant: whatever is asked of it, and wherever it runs, it stays in the scope."""
    with retriever.scope(tenant=tenant) as scoped:
        yield ContextChatEngine.from_defaults(TarragonRetriever(scoped), llm=llm)


def run(path: Path, encoder: DenseEncoder | None = None) -> list[str]:
    """What each tenant is told, and what is refused."""
    lines = []
    with Index.open(path, encoder=encoder) as index:
        index.sync(DOCUMENTS, progress=False)
        with Retriever(index, k=4, required=["tenant"]) as retriever:
            for tenant in ("acme", "globex"):
                with assistant(retriever, tenant, QuotingLLM()) as engine:
                    response = engine.chat(QUESTION)
                sources = sorted(str(one.node.ref_doc_id) for one in response.source_nodes)
                lines.append(f"{tenant}: {response} (of {', '.join(sources)})")
            wider = MetadataFilters(filters=[MetadataFilter(key="tenant", value="globex")])
            with retriever.scope(tenant="acme") as scoped:
                lines.append(f"acme, asking for globex: {TarragonRetriever(scoped, filters=wider).retrieve(QUESTION)}")
            try:
                TarragonRetriever(retriever).retrieve(QUESTION)
            except InvalidInput as error:
                lines.append(f"without a tenant: {error}")
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print("\n".join(run(Path(temporary) / "tenants.tarragon")))

"""Per-tenant scope inside a chat engine: one index, and no tenant ever sees another's passages.

Run it with `python tenants.py`; what it prints is found out, not written down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import LLM
from llama_index.core.schema import NodeWithScore
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters
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


def _names(nodes: list[NodeWithScore]) -> str:
    return ", ".join(sorted(str(one.node.ref_doc_id) for one in nodes))


def run(path: Path, encoder: DenseEncoder | None = None) -> list[str]:
    """What each tenant is told, and what is refused."""
    lines = []
    with Index.open(path, encoder=encoder) as index:
        index.sync(DOCUMENTS, progress=False)
        with Retriever(index, k=4, required=["tenant"]) as retriever:
            for tenant in ("acme", "globex"):
                with assistant(retriever, tenant, QuotingLLM()) as engine:
                    response = engine.chat(QUESTION)
                lines.append(f"{tenant}: {response} (shown: {_names(response.source_nodes)})")
            either = [MetadataFilter(key="tenant", value=tenant) for tenant in ("acme", "globex")]
            wider = MetadataFilters(filters=[*either], condition=FilterCondition.OR)
            with retriever.scope(tenant="acme") as scoped:
                found = TarragonRetriever(scoped, filters=wider).retrieve(QUESTION)
            lines.append(f"acme, with a filter for either tenant: {_names(found)}")
            try:
                TarragonRetriever(retriever).retrieve(QUESTION)
            except InvalidInput as error:
                lines.append(f"without a tenant: {error}")
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print("\n".join(run(Path(temporary) / "tenants.tarragon")))

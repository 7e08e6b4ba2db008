"""The retriever unmodified inside LlamaIndex's engines, with an LLM that knows only what it is shown.

In each: the retriever's passages reach the LLM, and when the index says something else, so does the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_documents import BACKUP
from llama_index.core import Document, PromptTemplate, QueryBundle
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.evaluation import BatchEvalRunner, FaithfulnessEvaluator, RetrieverEvaluator
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
    RouterRetriever,
    TransformRetriever,
)
from llama_index.core.schema import IndexNode, TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.storage_context import StorageContext
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from llama_index.retrievers.tarragon import TarragonRetriever
from reading_llm import DONT_KNOW, ReadingLLM

from tarragon.testing import WordEncoder

pytestmark = [
    pytest.mark.usefixtures("_nothing_left"),
    # LlamaIndex's own: workflows that look at all their attributes
    pytest.mark.filterwarnings("ignore:The `__fields:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*model_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ServiceManager:DeprecationWarning"),
]

QUESTION = "when is the signing key to be rotated with keyctl rotate?"
RULE = "Run keyctl rotate to rotate the signing key every April."
NEW_RULE = "Run keyctl rotate to rotate the signing key every October."

Ask = Callable[[TarragonRetriever, ReadingLLM], str]


@pytest.fixture(autouse=True)
def _default_llm(llm: ReadingLLM) -> None:
    """No engine reaches for another."""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[TarragonRetriever]:
    """A second index, about something else."""
    documents = [Document(text="Lunch is served at noon in the canteen.", id_="lunch")]
    with TarragonRetriever.from_documents(documents, tmp_path / "other.tarragon", encoder=WordEncoder()) as opened:
        yield opened


def query_engine(retriever: TarragonRetriever, llm: ReadingLLM) -> RetrieverQueryEngine:
    return RetrieverQueryEngine.from_args(retriever, llm=llm)


# --- one way of asking each -------------------------------------------------------------------------------------------
def by_query_engine(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    return str(query_engine(retriever, llm).query(QUESTION))


def by_query_engine_async(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    async def ask() -> str:
        return str(await query_engine(retriever, llm).aquery(QUESTION))

    return asyncio.run(ask())


def by_query_engine_streaming(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, streaming=True)
    return "".join(engine.query(QUESTION).response_gen)  # type: ignore[union-attr]


def by_citations(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    response = CitationQueryEngine.from_args(None, llm=llm, retriever=retriever).query(QUESTION)  # type: ignore[arg-type]
    if str(response) == DONT_KNOW:
        return DONT_KNOW
    text, number = str(response).rstrip("]").rsplit(" [", 1)
    assert text in response.source_nodes[int(number) - 1].node.get_content(), "the citation is right"
    return text


def by_condense_plus_context(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    engine = CondensePlusContextChatEngine.from_defaults(retriever, llm=llm)
    engine.chat(QUESTION)
    answer = str(engine.chat("and to rotate it with keyctl?"))
    assert "Standalone question:" in "".join(llm.prompts)
    return answer


def by_condense_plus_context_streaming(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    engine = CondensePlusContextChatEngine.from_defaults(retriever, llm=llm)
    return "".join(engine.stream_chat(QUESTION).response_gen)


def by_condense_plus_context_async(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    async def ask() -> str:
        response = await CondensePlusContextChatEngine.from_defaults(retriever, llm=llm).astream_chat(QUESTION)
        return "".join([part async for part in response.async_response_gen()])

    return asyncio.run(ask())


def by_context_chat(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    return str(ContextChatEngine.from_defaults(retriever, llm=llm).chat(QUESTION))


def by_context_chat_streaming(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    return "".join(ContextChatEngine.from_defaults(retriever, llm=llm).stream_chat(QUESTION).response_gen)


def by_context_chat_async(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    async def ask() -> str:
        return str(await ContextChatEngine.from_defaults(retriever, llm=llm).achat(QUESTION))

    return asyncio.run(ask())


def by_fusion(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    fused = QueryFusionRetriever([retriever], llm=llm, num_queries=3, similarity_top_k=2, use_async=True)
    assert "generates multiple search queries" in "".join(llm.prompts) or not llm.prompts
    return str(RetrieverQueryEngine.from_args(fused, llm=llm).query(QUESTION))


def by_recursion(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    recursive = RecursiveRetriever("root", retriever_dict={"root": retriever})
    return str(RetrieverQueryEngine.from_args(recursive, llm=llm).query(QUESTION))


def by_batch_evaluation(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    runner = BatchEvalRunner({"faithful": FaithfulnessEvaluator(llm=llm)}, workers=4)
    results = asyncio.run(runner.aevaluate_queries(query_engine(retriever, llm), [QUESTION, "cold storage backup"]))
    answers = [(str(one.response), one.passing) for one in results["faithful"]]
    assert all(passing is (answer != DONT_KNOW) for answer, passing in answers)
    assert answers[1][0] == BACKUP.strip()
    return answers[0][0]


def by_agent(retriever: TarragonRetriever, llm: ReadingLLM) -> str:
    tool = RetrieverTool.from_defaults(retriever, name="handbook", description="The handbook.")

    async def ask() -> str:
        return str(await ReActAgent(tools=[tool], llm=llm, streaming=False).run(QUESTION))

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "ask",
    [
        by_query_engine,
        by_query_engine_async,
        by_query_engine_streaming,
        by_citations,
        by_condense_plus_context,
        by_condense_plus_context_streaming,
        by_condense_plus_context_async,
        by_context_chat,
        by_context_chat_streaming,
        by_context_chat_async,
        by_fusion,
        by_recursion,
        by_batch_evaluation,
        by_agent,
    ],
    ids=lambda ask: ask.__name__.removeprefix("by_"),
)
def test_engine(retriever: TarragonRetriever, llm: ReadingLLM, documents: list[Document], ask: Ask) -> None:
    retriever.similarity_top_k = 2
    assert ask(retriever, llm).strip() == RULE
    assert llm.shown(RULE), "the passage reached the LLM"
    edited = [Document(text=documents[0].text.replace("April", "October"), id_="keys.md"), *documents[1:]]
    report = retriever.sync(edited)
    assert report.documents_changed == 1
    llm.prompts.clear()
    assert ask(retriever, llm).strip() == NEW_RULE
    assert not llm.shown(RULE)
    retriever.sync(documents[1:], max_delete=1.0)
    assert "keyctl" not in ask(retriever, llm), "what was deleted is not told any more"


# --- several retrievers -----------------------------------------------------------------------------------------------
def tools(*retrievers: TarragonRetriever) -> list[RetrieverTool]:
    about = ["signing keys and their rotation with keyctl", "lunch and the canteen"]
    return [RetrieverTool.from_defaults(one, description=text) for one, text in zip(retrievers, about, strict=True)]


@pytest.mark.parametrize(("question", "expected"), [(QUESTION, RULE), ("when is lunch served?", "Lunch is served")])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_router_retriever(
    retriever: TarragonRetriever,
    other: TarragonRetriever,
    llm: ReadingLLM,
    question: str,
    expected: str,
    is_async: bool,
) -> None:
    router = RouterRetriever(LLMSingleSelector.from_defaults(llm=llm), tools(retriever, other), llm=llm)
    nodes = asyncio.run(router.aretrieve(question)) if is_async else router.retrieve(question)
    assert expected in nodes[0].node.get_content()


@pytest.mark.parametrize(("question", "expected"), [(QUESTION, RULE), ("when is lunch served?", "Lunch is served")])
def test_router_query_engine(
    retriever: TarragonRetriever, other: TarragonRetriever, llm: ReadingLLM, question: str, expected: str
) -> None:
    engines = [
        QueryEngineTool.from_defaults(query_engine(one, llm), description=tool.metadata.description)
        for one, tool in zip((retriever, other), tools(retriever, other), strict=True)
    ]
    router = RouterQueryEngine.from_defaults(engines, llm=llm, selector=LLMSingleSelector.from_defaults(llm=llm))
    assert expected in str(router.query(question))
    assert llm.shown(expected)


def test_sub_question_query_engine(retriever: TarragonRetriever, other: TarragonRetriever, llm: ReadingLLM) -> None:
    engines = [
        QueryEngineTool.from_defaults(query_engine(retriever, llm), name="keys", description="keyctl rotate"),
        QueryEngineTool.from_defaults(query_engine(other, llm), name="canteen", description="lunch served"),
    ]
    questions = LLMQuestionGenerator.from_defaults(llm=llm)
    engine = SubQuestionQueryEngine.from_defaults(engines, llm=llm, question_gen=questions, verbose=False)
    response = engine.query("when is it?")
    assert llm.shown(RULE)
    assert llm.shown("Lunch is served at noon in the canteen.")
    answers = [one.node.get_content() for one in response.source_nodes]
    assert any(RULE in one for one in answers)
    assert any("noon" in one for one in answers)


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "dist_based_score", "simple"])
def test_fusion_of_two_retrievers(
    retriever: TarragonRetriever, other: TarragonRetriever, llm: ReadingLLM, mode: Any
) -> None:
    fused = QueryFusionRetriever([retriever, other], llm=llm, mode=mode, num_queries=1, similarity_top_k=10)
    found = [one.node.get_content() for one in fused.retrieve(f"{QUESTION} lunch canteen")]
    assert any(RULE in one for one in found)
    assert any("noon" in one for one in found)
    assert len(found) == len(set(found))


def test_transform_retriever_with_hyde(retriever: TarragonRetriever, llm: ReadingLLM) -> None:
    """The question shares no word with the passage that answers it; the hypothetical answer does."""
    hyde = TransformRetriever(retriever, HyDEQueryTransform(llm=llm, include_original=False))
    question = "credential renewal policy"
    retriever.similarity_top_k = 1
    assert "rotate" in hyde.retrieve(question)[0].node.get_content()
    assert "write a passage" in llm.prompts[0]
    assert retriever.last_hits is not None
    assert retriever.last_hits.receipt.legs["lexical"] == 0, "words keep to the question"


def test_recursive_retriever_follows_index_nodes(tmp_path: Path, retriever: TarragonRetriever, llm: ReadingLLM) -> None:
    nodes = [
        IndexNode(text="everything about the signing key", index_id="keys", id_="to-keys"),
        TextNode(text="Lunch is served at noon.", id_="lunch"),
    ]
    with TarragonRetriever.from_documents(nodes, tmp_path / "root.tarragon", encoder=WordEncoder()) as root:
        recursive = RecursiveRetriever("root", retriever_dict={"root": root, "keys": retriever})
        engine = RetrieverQueryEngine.from_args(recursive, llm=llm)
        assert str(engine.query(QUESTION)) == RULE
        assert str(engine.query("when is lunch served?")) == "Lunch is served at noon."


def test_index_nodes_stand_for_objects(tmp_path: Path, retriever: TarragonRetriever) -> None:
    node = IndexNode(text="everything about the signing key", index_id="keys", id_="to-keys", obj=retriever)
    path = tmp_path / "root.tarragon"
    with TarragonRetriever.from_documents([node], path, encoder=WordEncoder()) as root:
        for nodes in (root.retrieve(QUESTION), asyncio.run(root.aretrieve(QUESTION))):
            assert RULE in nodes[0].node.get_content()


def test_auto_merging_retriever(tmp_path: Path, llm: ReadingLLM) -> None:
    text = " ".join(f"Rule {n} of the signing key says to wait {n} days." for n in range(1, 13))
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[128, 32], chunk_overlap=0)
    nodes = parser.get_nodes_from_documents([Document(text=text, id_="rules")])
    leaves = get_leaf_nodes(nodes)
    store = SimpleDocumentStore()
    store.add_documents(nodes)
    context = StorageContext.from_defaults(docstore=store)
    with TarragonRetriever.from_documents(
        leaves, tmp_path / "a.tarragon", encoder=WordEncoder(), similarity_top_k=len(leaves)
    ) as retriever:
        found = retriever.retrieve("rule of the signing key")
        assert {one.node.node_id for one in found} == {leaf.node_id for leaf in leaves}
        merged = AutoMergingRetriever(retriever, context).retrieve("rule of the signing key")  # type: ignore[arg-type]
    assert len(merged) < len(found)
    assert {one.node.node_id for one in merged} <= {node.node_id for node in nodes} - {leaf.node_id for leaf in leaves}


def test_retriever_evaluator(retriever: TarragonRetriever) -> None:
    wanted = {one.text.split("\n")[-1]: one.chunk_id for one in retriever.index.passages()}
    evaluator = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever)
    good = evaluator.evaluate(QUESTION, [wanted[RULE]])
    assert good.metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}
    assert asyncio.run(evaluator.aevaluate(QUESTION, ["unknown"])).metric_vals_dict == {"mrr": 0.0, "hit_rate": 0.0}
    assert good.retrieved_texts[0].endswith(RULE)


def test_retriever_tool_with_its_wrapped_input(retriever: TarragonRetriever) -> None:
    tool = RetrieverTool.from_defaults(retriever)
    assert RULE in tool.call(input=QUESTION).content
    assert RULE in asyncio.run(tool.acall(input=QUESTION)).content


def test_what_the_prompt_shows_is_what_the_template_says(retriever: TarragonRetriever, llm: ReadingLLM) -> None:
    template = PromptTemplate("-----\n{context_str}\n-----\nQuery: {query_str}\n")
    engine = RetrieverQueryEngine.from_args(retriever, llm=llm, text_qa_template=template)
    engine.query(QUESTION)
    assert "[team = security\nyear = 2024]" in llm.prompts[0]
    assert "tags" not in llm.prompts[0], "excluded from what the LLM sees"
    assert llm.prompts[0].count("[team = security") == 3, "three passages were asked for"


def test_a_bundle_that_went_to_another_retriever_first(retriever: TarragonRetriever, other: TarragonRetriever) -> None:
    """`VectorIndexRetriever` leaves its own model's embedding in the bundle."""
    from llama_index.core import VectorStoreIndex
    from llama_index.core.embeddings import MockEmbedding

    index = VectorStoreIndex.from_documents([Document(text="something else")], embed_model=MockEmbedding(64))
    bundle = QueryBundle(QUESTION)
    index.as_retriever().retrieve(bundle)
    assert bundle.embedding is not None
    assert RULE in retriever.retrieve(bundle)[0].node.get_content()

from __future__ import annotations

import pytest

from tarragon.encoders.prompts import Prompts, family_prompts

WEB = "Given a web search query, retrieve relevant passages that answer the query"
PASSAGES = "Represent this sentence for searching relevant passages: "
E5 = ("query: ", "passage: ")
NOMIC = ("search_query: ", "search_document: ")
BGE_ZH = "为这个句子生成表示以用于检索相关文章："
GEMMA = ("task: search result | query: ", "title: none | text: ")

CARDS = {
    "intfloat/e5-small-v2": E5,
    "intfloat/e5-base-v2": E5,
    "intfloat/e5-large": E5,
    "intfloat/multilingual-e5-base": E5,
    "intfloat/multilingual-e5-large": E5,
    "intfloat/multilingual-e5-large-instruct": (f"Instruct: {WEB}\nQuery: ", ""),
    "BAAI/bge-small-en-v1.5": (PASSAGES, ""),
    "BAAI/bge-base-en-v1.5": (PASSAGES, ""),
    "BAAI/bge-large-en": (PASSAGES, ""),
    "BAAI/bge-base-zh-v1.5": (BGE_ZH, ""),
    "BAAI/bge-m3": None,
    "nomic-ai/nomic-embed-text-v1": NOMIC,
    "nomic-ai/nomic-embed-text-v1.5": NOMIC,
    "nomic-ai/modernbert-embed-base": NOMIC,
    "Snowflake/snowflake-arctic-embed-xs": (PASSAGES, ""),
    "Snowflake/snowflake-arctic-embed-m": (PASSAGES, ""),
    "Snowflake/snowflake-arctic-embed-m-v1.5": (PASSAGES, ""),
    "Snowflake/snowflake-arctic-embed-m-v2.0": ("query: ", ""),
    "Snowflake/snowflake-arctic-embed-l-v2.0": ("query: ", ""),
    "mixedbread-ai/mxbai-embed-large-v1": (PASSAGES, ""),
    "Qwen/Qwen3-Embedding-0.6B": (f"Instruct: {WEB}\nQuery:", ""),
    "Qwen/Qwen3-Embedding-8B": (f"Instruct: {WEB}\nQuery:", ""),
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": (f"Instruct: {WEB}\nQuery: ", ""),
    "Alibaba-NLP/gte-modernbert-base": None,
    "thenlper/gte-base": None,
    "google/embeddinggemma-300m": GEMMA,
    "sentence-transformers/all-MiniLM-L6-v2": None,
    "sentence-transformers/all-mpnet-base-v2": None,
    "some/model-of-mine": None,
    "": None,
}
"""What each model's card says, written out."""


@pytest.mark.parametrize(("model", "expected"), CARDS.items())
def test_prompts_are_the_cards(model: str, expected: tuple[str, str] | None) -> None:
    assert family_prompts(model) == (None if expected is None else Prompts(*expected))


@pytest.mark.parametrize(
    "path",
    ["/models/e5-base-v2", "./e5-base-v2/", "C:\\models\\e5-base-v2", "C:\\models\\E5-Base-v2\\", "e5-base-v2"],
)
def test_local_folders_go_by_their_last_part(path: str) -> None:
    assert family_prompts(path) == Prompts(*E5)


@pytest.mark.parametrize(
    "path",
    [
        "/data/e5-base-v2/all-MiniLM-L6-v2",  # a family's name further up means nothing
        "BAAI/bge-m3-en",
        "mine/not-bge-base-en",
        "mine/note5-base",
        "mine/Qwen3-reranker",
    ],
)
def test_names_that_only_look_alike(path: str) -> None:
    assert family_prompts(path) is None

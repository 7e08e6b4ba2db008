"""Instruction prompts of model families whose own configuration does not carry them.

Used only where a model's ``config_sentence_transformers.json`` has no prompts. Each row cites the model card that it is
from. A prompt that is missing or wrong gives plausible but worse results, and nothing else would show it.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Prompts(NamedTuple):
    """What is put in front of a text, exactly."""

    query: str
    document: str


_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_PASSAGES = "Represent this sentence for searching relevant passages: "

_FAMILIES: tuple[tuple[str, Prompts], ...] = (
    # intfloat/multilingual-e5-large-instruct
    (r"e5-.*-instruct$", Prompts(f"Instruct: {_WEB_SEARCH}\nQuery: ", "")),
    # intfloat/e5-base-v2, intfloat/multilingual-e5-base: "query: " and "passage: " are needed also in other languages
    (r"(^|-)e5-(small|base|large)", Prompts("query: ", "passage: ")),
    # BAAI/bge-base-en-v1.5: a query instruction, none for passages; BAAI/bge-m3 has none
    (r"^bge-(small|base|large)-en", Prompts(_PASSAGES, "")),
    # BAAI/bge-base-zh-v1.5
    (r"^bge-(small|base|large)-zh", Prompts("为这个句子生成表示以用于检索相关文章：", "")),
    # nomic-ai/nomic-embed-text-v1.5, nomic-ai/modernbert-embed-base
    (r"^(nomic-embed-text|modernbert-embed)", Prompts("search_query: ", "search_document: ")),
    # Snowflake/snowflake-arctic-embed-m-v2.0, -l-v2.0
    (r"^snowflake-arctic-embed-[ml]-v2", Prompts("query: ", "")),
    # Snowflake/snowflake-arctic-embed-m, -m-v1.5
    (r"^snowflake-arctic-embed", Prompts(_PASSAGES, "")),
    # mixedbread-ai/mxbai-embed-large-v1
    (r"^mxbai-embed", Prompts(_PASSAGES, "")),
    # Qwen/Qwen3-Embedding-0.6B
    (r"^qwen3-embedding", Prompts(f"Instruct: {_WEB_SEARCH}\nQuery:", "")),
    # Alibaba-NLP/gte-Qwen2-1.5B-instruct; thenlper/gte-base and Alibaba-NLP/gte-modernbert-base have none
    (r"^gte-qwen.*-instruct", Prompts(f"Instruct: {_WEB_SEARCH}\nQuery: ", "")),
    # google/embeddinggemma-300m
    (r"^embeddinggemma", Prompts("task: search result | query: ", "title: none | text: ")),
)


def family_prompts(model: str) -> Prompts | None:
    """The prompts that a model's card asks for, found by the last part of its name; None for an unknown family."""
    name = re.split(r"[/\\]", model.rstrip("/\\"))[-1].lower()
    return next((prompts for pattern, prompts in _FAMILIES if re.search(pattern, name)), None)

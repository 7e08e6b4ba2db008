"""The examples' language model: any OpenAI-compatible endpoint, or a stand-in that quotes.

The stand-in is no language model. It answers with the sentence of the passages that it is shown which shares most words
with the question, so that the examples run anywhere and always say the same, and what they show is the retriever.
"""

from __future__ import annotations

import os
import re
from typing import Any

from llama_index.core.llms import LLM, CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

UNKNOWN = "The documents do not say."
KEY = "OPENAI_API_KEY"

_SHOWN = re.compile(r"(?:^-{20,}$|for the context:$)(.*)(?:^-{20,}$|^\s*Instruction:)", re.DOTALL | re.MULTILINE)
"""The passages in the prompts of LlamaIndex's query and chat engines."""

_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:#|\||```|[-*+] |\d+\. ))|```\w*\n|(?<=[.!?])\s+|^#.*\n", re.MULTILINE)
"""Between sentences: blank lines, headings, rows, items, code, and ends of sentences."""

_FEW = set(
    re.findall(
        r"\w+", "a an and are at can do does for from how i in is it of on or the to was what when where which who"
    )
)


def language_model(base_url: str | None = None, model: str | None = None) -> LLM:
    """The model behind an endpoint, with the key in OPENAI_API_KEY if it needs one; without an endpoint, the stand-in.

    Raises:
        SystemExit: What is missing for an endpoint.
    """
    if base_url is None:
        return QuotingLLM()
    if not model:
        raise SystemExit("--base-url needs --model too: the name of a model at that endpoint")
    try:
        from llama_index.llms.openai_like import OpenAILike
    except ImportError:
        raise SystemExit("--base-url needs another package: pip install llama-index-llms-openai-like") from None
    return OpenAILike(model=model, api_base=base_url, api_key=os.environ.get(KEY) or "none", is_chat_model=True)


class QuotingLLM(CustomLLM):
    """Quotes the passages in its prompt: see the module."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=16_000, model_name="quoting")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=_answer(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        pieces = re.findall(r"\S+\s*", _answer(prompt))
        return (CompletionResponse(text="".join(pieces[: n + 1]), delta=piece) for n, piece in enumerate(pieces))


def _answer(prompt: str) -> str:
    asked = re.findall(r"^\s*(?:user|Query): (.*)", prompt, re.MULTILINE)[-1]
    if follow_up := re.search(r"^\s*Follow Up Input: (.*)\n\s*Standalone question:", prompt, re.MULTILINE):
        return f"{follow_up[1]} {asked}"  # with the words of the question before it
    shown = _SHOWN.search(prompt)
    sentences = [" ".join(one.split()) for one in _BREAK.split(shown[1] if shown else "")]
    best = max(sentences, key=lambda one: len(_words(one) & _words(asked)), default="")
    return best if _words(best) & _words(asked) else UNKNOWN


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _FEW

"""The examples' language model: any OpenAI-compatible endpoint, or a stand-in that quotes.

The stand-in is no language model. It answers with the sentence of the passages that it is shown which shares most words
with the question, so that the examples run anywhere, and what they show is the retriever.
"""

from __future__ import annotations

import os
import re
from typing import Any

from llama_index.core.llms import LLM, CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

UNKNOWN = "The documents do not say."
_FEW = {
    "a",
    "an",
    "and",
    "are",
    "at",
    "do",
    "does",
    "for",
    "from",
    "how",
    "in",
    "is",
    "it",
    "of",
    "on",
    "or",
    "the",
    "to",
}
_FEW |= {"was", "what", "when", "where", "which", "who", "with"}


def language_model(base_url: str | None = None, model: str = "") -> LLM:
    """The model behind an endpoint, with the key in OPENAI_API_KEY if it needs one; without one, the stand-in."""
    if base_url is None:
        return QuotingLLM()
    try:
        from llama_index.llms.openai_like import OpenAILike
    except ImportError:
        raise SystemExit("--base-url needs another package: pip install llama-index-llms-openai-like") from None
    key = os.environ.get("OPENAI_API_KEY", "none")
    return OpenAILike(model=model, api_base=base_url, api_key=key, is_chat_model=True)


class QuotingLLM(CustomLLM):
    """Quotes the passages in its prompt."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=16_000, model_name="quoting")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=_answer(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def stream() -> CompletionResponseGen:
            text = ""
            for part in re.findall(r"\S+\s*", _answer(prompt)):
                text += part
                yield CompletionResponse(text=text, delta=part)

        return stream()


def _answer(prompt: str) -> str:
    if "Standalone question:" in prompt:  # the words of the follow-up, and of the question before it
        asked = re.findall(r"^\s*user: (.*)", prompt, re.MULTILINE)[-1:]
        return " ".join([*re.findall(r"Follow Up Input: (.*)", prompt), *asked])
    question = re.findall(r"(?:user|Query): (.*)", prompt)[-1]
    passages = prompt[: prompt.rfind(question)]
    sentences = [one for line in passages.splitlines() for one in re.split(r"(?<=[.!?])\s+", line.strip())]
    quotable = [one for one in sentences if one.endswith(".") and not one.startswith(_OF_THE_PROMPT)]
    best = max(quotable, key=lambda one: len(_words(one) & _words(question)), default="")
    return best if _words(best) & _words(question) else UNKNOWN


_OF_THE_PROMPT = (
    "The following is",
    "The assistant is",
    "If the assistant",
    "does not know",
    "Instruction:",
    "Answer ",
)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _FEW

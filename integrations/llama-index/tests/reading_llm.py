"""A deterministic LLM that answers from what it is shown: when other passages reach it, its answer changes.

It has no knowledge of its own. For each kind of prompt that LlamaIndex makes it does the obvious thing with the words
of the prompt: picks the sentence that shares most words with the question, the choice that does, the tool that does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

DONT_KNOW = "The passages do not say."
_STOP = frozenset(
    """
    a an and are at by do does for from how i in is it of on or the they to was what when where which who
    """.split()  # noqa: SIM905
)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _STOP


def sentences(text: str) -> list[str]:
    parts = (part.strip() for line in text.splitlines() for part in re.split(r"(?<=[.!?])\s+", line))
    return [part for part in parts if part.endswith((".", "!")) and len(words(part)) > 1]


def best(question: str, candidates: Sequence[str]) -> str:
    """The first of those that share most words with the question; none shares any: nothing."""
    scored = [(len(words(one) & words(question)), -place, one) for place, one in enumerate(candidates)]
    score, _, found = max(scored, default=(0, 0, ""))
    return found if score else ""


class ReadingLLM(CustomLLM):
    """See the module. ``prompts`` has every prompt that it was given, oldest first."""

    prompts: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=16_000, num_output=512, model_name="reading")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text=answer(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        self.prompts.append(prompt)
        whole = answer(prompt)

        def stream() -> CompletionResponseGen:
            text = ""
            for part in re.findall(r"\S+\s*", whole):
                text += part
                yield CompletionResponse(text=text, delta=part)

        return stream()

    def shown(self, text: str) -> bool:
        """Whether a passage was in any prompt so far."""
        return any(text in prompt for prompt in self.prompts)


def answer(prompt: str) -> str:
    for sign, reply in _KINDS:
        if sign in prompt:
            return reply(prompt)
    return _read(prompt)


def _after(prompt: str, *signs: str) -> str:
    """The line behind the last of these signs."""
    places = [(prompt.rfind(sign), sign) for sign in signs if sign in prompt]
    place, sign = max(places, default=(-1, ""))
    return prompt[place + len(sign) :].strip().split("\n")[0] if place >= 0 else ""


def _read(prompt: str) -> str:
    """A question about passages: the sentence that answers best, with its source's number where there are numbers."""
    question = _after(prompt, "Query:", "user:", "Question:")
    shown = prompt[: prompt.rfind(question)]
    if "Now it's your turn" in shown:
        sources = re.findall(r"Source (\d+):(.*?)(?=Source \d+:|\Z)", shown.split("Now it's your turn")[1], re.DOTALL)
        numbered = [(one, number) for number, text in sources for one in sentences(text)]
        found = best(question, [one for one, _ in numbered])
        return f"{found} [{dict(numbered)[found]}]" if found else DONT_KNOW
    marked = re.findall(r"-{5,}\n(.*?)\n-{5,}", shown, re.DOTALL) or [shown]
    return best(question, [one for text in marked for one in sentences(text)]) or DONT_KNOW


def _condense(prompt: str) -> str:
    """A follow-up question with the nouns of the conversation: all of its words."""
    history = prompt.split("Chat History:")[1].split("Follow Up Input:")[0]
    asked = [line.split(":", 1)[1] for line in history.splitlines() if line.strip().startswith("user:")]
    return " ".join([_after(prompt, "Follow Up Input:"), *asked])


def _choose(prompt: str) -> str:
    question = _after(prompt, "relevant to the question: '").rstrip("'")
    choices = re.findall(r"\((\d+)\) (.*)", prompt.split("---------------------")[1])
    found = best(question, [text for _, text in choices]) or choices[0][1]
    number = next(int(number) for number, text in choices if text == found)
    return json.dumps([{"choice": number, "reason": "it shares most words"}])


def _sub_questions(prompt: str) -> str:
    tools = json.loads(re.findall(r"<Tools>\s*```json\s*(.*?)```", prompt, re.DOTALL)[-1])
    question = prompt.split("<User Question>")[-1].strip().split("\n")[0]
    items = [{"sub_question": f"{text} {question}", "tool_name": name} for name, text in tools.items()]
    return f"```json\n{json.dumps({'items': items})}\n```"


def _queries(prompt: str) -> str:
    query = _after(prompt, "Query:")
    return "\n".join([query.lower(), " ".join(reversed(query.split()))])


def _passage(prompt: str) -> str:
    """A hypothetical answer to a question that shares no word with the documents."""
    question = prompt.split("key details as possible.")[1].split("Passage:")[0]
    return "keyctl rotate the signing key" if "credential" in question else question.strip()


def _react(prompt: str) -> str:
    """An agent's step: call the tool, or answer from what it gave."""
    question = re.findall(r"user: (.*)", prompt)[0]
    if observed := re.findall(r"user: Observation:(.*)", prompt, re.DOTALL):
        found = best(question, sentences(observed[-1])) or DONT_KNOW
        return f"Thought: I can answer without using any more tools.\nAnswer: {found}"
    tool = re.findall(r"> Tool Name: (\S+)", prompt)[0]
    return f"Thought: I need a tool.\nAction: {tool}\nAction Input: {json.dumps({'input': question})}"


def _judge(prompt: str) -> str:
    information = prompt.split("Information:")[-1].split("Context:")[0].strip()
    context = prompt.split("Context:")[-1]
    return "YES" if information and " ".join(information.split()) in " ".join(context.split()) else "NO"


_KINDS = [
    ("Standalone question:", _condense),
    ("Some choices are given below", _choose),
    ("a list of relevant sub-questions", _sub_questions),
    ("generates multiple search queries", _queries),
    ("write a passage to answer the question", _passage),
    ("Tool Name:", _react),
    ("is supported by the context", _judge),
]

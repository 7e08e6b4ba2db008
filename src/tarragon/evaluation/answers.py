"""Answers that a language model writes from what was retrieved, kept with the passages that they were written from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.journal import Journal
from tarragon.evaluation.prompting import Prompt, load_prompt, numbered
from tarragon.evaluation.types import Question
from tarragon.identity import canonical_json, digest
from tarragon.types import Hit

PASSAGES = 5
"""Given to the model: as many as `Index.search` returns."""

WORKERS = 4
"""Requests at a time. Servers batch them; what a paid service allows differs, and it says so by 429."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that an answer was written from: ``document.text[start:end]``."""

    document_id: str
    chunk_id: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it was written from.

    Attributes:
        question_id: Of the question.
        text: What the model wrote.
        passages: What it was given, in order of rank.
        model: Its name.
        prompt: Digest of the prompt.
        tokens: Read and written, as far as the server tells.
        key: Identifies question, passages, model and prompt: the same key is not asked for twice.
    """

    question_id: str
    text: str
    passages: tuple[Passage, ...]
    model: str = ""
    prompt: str = ""
    tokens: int = 0
    key: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Answer:
        """Read `to_dict`."""
        return cls(**{**values, "passages": tuple(Passage(**one) for one in values["passages"])})


def generate(
    found: Iterable[tuple[Question, Sequence[Hit]]],
    model: ChatModel,
    *,
    file: str | Path | None = None,
    passages: int = PASSAGES,
    prompts: str | Path | None = None,
    workers: int = WORKERS,
) -> list[Answer]:
    """Let a model answer each question from its best hits.

    Args:
        found: Questions with their hits, such as from `tarragon.evaluation.running.answers`.
        model: Writes the answers.
        file: JSON Lines, added to after each answer. What it holds already is not asked for again, so that an
            interrupted run goes on.
        passages: Hits that the model is given.
        prompts: A folder with a prompt of your own: see `tarragon.evaluation.prompting`.
        workers: Requests at a time.

    Returns:
        In the order of the questions.

    Raises:
        ModelUnavailable: The server cannot be reached or refuses; what was answered before is kept.
        AnsweringFailed: It answers with something else than a text.
        InvalidInput: The file holds something else.
    """
    prompt = load_prompt("answer", prompts)
    asked = [(question, given(hits[:passages])) for question, hits in found]
    with Journal(file) as journal:

        def answer(task: tuple[Question, tuple[Passage, ...]]) -> Answer:
            question, shown = task
            key = _key(question, shown, model, prompt)
            if key in journal.records:
                return Answer.from_dict(journal.records[key])
            said = model.text(prompt.filled(passages=numbered([one.text for one in shown]), question=question.text))
            made = Answer(question.id, said.text.strip(), shown, model.name, prompt.digest, said.tokens, key)
            journal.add(made.to_dict())
            return made

        return list(at_once(answer, asked, workers))


def at_once(call: Callable[[A], B], items: Sequence[A], workers: int) -> Iterator[B]:
    """The results in order, several made at a time. After an error no further call is begun, and it is raised."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="tarragon evaluation") as pool:
        calls: list[Future[B]] = [pool.submit(call, item) for item in items]
        try:
            for one in calls:
                yield one.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def given(hits: Sequence[Hit]) -> tuple[Passage, ...]:
    """Hits as passages, in their order."""
    return tuple(Passage(hit.document_id, hit.chunk_id, hit.start, hit.end, hit.text) for hit in hits)


def _key(question: Question, passages: Sequence[Passage], model: ChatModel, prompt: Prompt) -> str:
    texts = canonical_json([one.text for one in passages]).encode("utf-8", "surrogatepass")
    return digest("answer", question.id, question.text, texts, model.name, prompt.digest).hex()

"""Questions for a corpus that has none: about passages of an index, each kept with the span that answers it.

They are no users' questions. Those that a language model writes ask what passages happen to say, in their words more
often than users would; those that are made without one are words of the passage and favour search by words. Both tell
whether a change broke something; which of two set-ups users like better, only their own questions tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from tarragon.errors import InvalidInput
from tarragon.evaluation.answers import WORKERS, Passage, at_once
from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.drafting import LEAST, Draft, extracted, sample_passages, written
from tarragon.evaluation.journal import Journal
from tarragon.evaluation.prompting import load_prompt
from tarragon.evaluation.questions import golden_set
from tarragon.evaluation.running import answers
from tarragon.evaluation.types import GoldenSet, Question, Span
from tarragon.identity import digest
from tarragon.index import Index
from tarragon.recipe import Mode, SearchRecipe
from tarragon.types import Hit

DEPTH = 100
"""Places of each leg in which the source must be: `SearchRecipe.depth`, beyond which nothing is fused or reranked."""

Reason: TypeAlias = Literal["no leg finds it", "the same as another", "no question", "its source is not quoted"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A question that is left out, and why."""

    text: str
    passage: Passage
    reason: Reason


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Questions that were made.

    Attributes:
        golden: Those that are kept: each with the document and the span that it was made from, and its answer.
        dropped: The others.
    """

    golden: GoldenSet
    dropped: tuple[Dropped, ...]


def synthesise(
    index: Index,
    count: int,
    model: ChatModel | None = None,
    *,
    file: str | Path | None = None,
    prompts: str | Path | None = None,
    depth: int = DEPTH,
    seed: int = 0,
    workers: int = WORKERS,
) -> Synthetic:
    """Make questions about passages of an index, and keep those that a search could answer.

    Args:
        index: Its chunks are asked about.
        count: Passages that are asked about; the questions that are kept are fewer.
        model: Writes the questions. None: they are made of the rarest words of a sentence, the same every time.
        file: JSON Lines with what the model said, so that an interrupted run goes on.
        prompts: A folder with a prompt of your own: see `tarragon.evaluation.prompting`.
        depth: A question is kept if one leg has a chunk that overlaps its span among so many.
        seed: Another one chooses other passages.
        workers: Requests to the model at a time.

    Raises:
        InvalidInput: There is no passage that is long enough, or no question is left.
        ModelUnavailable: The model cannot be reached or refuses; what it said before is kept.
    """
    if count < 1:
        raise InvalidInput(f"count={count} must be at least 1", count=count)
    chosen = sample_passages(index, count, seed=seed)
    if not chosen:
        raise InvalidInput(f"the index holds no passage of {LEAST} characters or more to ask about")
    if model is None:
        drafts = extracted(chosen)
    else:
        prompt = load_prompt("question", prompts)
        with Journal(file) as journal:
            drafts = list(at_once(partial(written, model, prompt, journal), chosen, workers))
    return _kept(index, drafts, depth)


# --- the check --------------------------------------------------------------------------------------------------------
def _kept(index: Index, drafts: Iterable[Draft], depth: int) -> Synthetic:
    dropped: list[Dropped] = []
    questions: dict[str, tuple[Question, Passage]] = {}
    for draft in drafts:
        question = _question(draft)
        if isinstance(question, str):
            dropped.append(Dropped(draft.text, draft.passage, question))
        elif question.id in questions:
            dropped.append(Dropped(draft.text, draft.passage, "the same as another"))
        else:
            questions[question.id] = question, draft.passage
    found = answerable(index, [question for question, _ in questions.values()], depth)
    for id_ in questions.keys() - found:
        dropped.append(Dropped(questions[id_][0].text, questions[id_][1], "no leg finds it"))
    kept = [question for question, _ in questions.values() if question.id in found]
    if not kept:
        raise InvalidInput(f"no question is left of {len(dropped)} that were made: {_reasons(dropped)}")
    return Synthetic(golden_set("synthetic", kept), tuple(sorted(dropped, key=lambda one: (one.reason, one.text))))


def _question(draft: Draft) -> Question | Reason:
    if not draft.text:
        return "no question"
    if draft.span is None:
        return "its source is not quoted"
    start, end = (draft.passage.start + place for place in draft.span)
    span = Span(draft.passage.document_id, start, end)
    id_ = "s-" + digest("synthetic", draft.text).hex()[:12]
    return Question(id_, draft.text, {span.document_id: 1}, (span,), draft.answer or None)


def answerable(index: Index, questions: Sequence[Question], depth: int = DEPTH) -> set[str]:
    """Ids of the questions for which a leg has a chunk that overlaps one of their spans among its first ``depth``."""
    found: set[str] = set()
    for leg in _legs(index):
        left = [question for question in questions if question.id not in found]
        for question, hits, _ in answers(index, left, k=depth, recipe=SearchRecipe(mode=leg)):
            if any(_overlap(hit, span) for hit in hits for span in question.spans):
                found.add(question.id)
    return found


def _overlap(hit: Hit, span: Span) -> bool:
    return hit.document_id == span.document_id and hit.start < span.end and span.start < hit.end


def _legs(index: Index) -> Iterator[Mode]:
    yield "lexical"
    yield "dense"
    if index.status().recipe.get("sparse_model"):
        yield "sparse"


def _reasons(dropped: Iterable[Dropped]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in sorted(Counter(one.reason for one in dropped).items()))

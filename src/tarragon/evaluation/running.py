"""Putting a golden set to an index: the rankings it gives, with what made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from tarragon.evaluation.types import GoldenSet, Question, Ranked, Run
from tarragon.index import Index
from tarragon.queries import MOST_TEXTS
from tarragon.receipts import Hits
from tarragon.recipe import RerankStep, SearchRecipe
from tarragon.retriever import Retriever
from tarragon.types import FloatArray, Hit

K = 100
"""Hits of a question: the deepest of the usual measures, and `SearchRecipe.depth`, beyond which legs would look deeper
than users search."""

PART = MOST_TEXTS
"""Questions that are asked together: as many as a model embeds in one run. Their hits carry texts and notes, and all of
10,000 questions would take gigabytes."""


def run(
    source: Index | Retriever,
    golden: GoldenSet,
    *,
    k: int = K,
    recipe: SearchRecipe | None = None,
    name: str = "",
    vectors: Mapping[str, FloatArray] | None = None,
) -> Run:
    """Ask all questions of a golden set, in batches.

    Args:
        source: An index, or a retriever with its filter and scope, whose settings hold where ``recipe`` says nothing.
        golden: The questions.
        k: Hits of each question. Above the recipe's depth, its legs look as deep as this.
        recipe: How to search. None: as the retriever says, else as the index was tuned.
        name: Of the run. Empty: what the settings have that the default has not.
        vectors: Question id → its embedding, where it is known.

    Returns:
        Rankings of chunks. ``seconds`` are those of a question's own search and its share of embedding the batch.

    Raises:
        IndexNotFound: The index holds nothing.
    """
    index, settings = source if isinstance(source, Index) else source.index, settings_of(source, recipe)
    configuration = configuration_of(index, settings, k)
    if vectors is None:
        index.warm_up(settings)  # else the first questions would count the loading of models
    rankings: dict[str, tuple[Ranked, ...]] = {}
    seconds: dict[str, float] = {}
    for question, hits, took in answers(source, golden.questions, k=k, recipe=settings, vectors=vectors):
        rankings[question.id] = tuple(map(ranked, hits))
        seconds[question.id] = took
    return Run(name or words_of(settings), rankings, configuration, seconds)


def answers(
    source: Index | Retriever,
    questions: Sequence[Question],
    *,
    k: int,
    recipe: SearchRecipe,
    vectors: Mapping[str, FloatArray] | None = None,
) -> Iterator[tuple[Question, Hits, float]]:
    """Each question with its hits and the seconds that they took, in order; `PART` of them are asked at a time."""
    ask = _asking(source)
    for start in range(0, len(questions), PART):
        part = questions[start : start + PART]
        given = None if vectors is None else [vectors.get(question.id) for question in part]
        found = ask([question.text for question in part], k, recipe=recipe, vectors=given)
        yield from ((question, hits, _seconds(hits, len(part))) for question, hits in zip(part, found, strict=True))


def _asking(source: Index | Retriever) -> Callable[..., list[Hits]]:
    return source.retrieve_batch if isinstance(source, Retriever) else source.search_batch


def _seconds(hits: Hits, asked: int) -> float:
    """Of one question: the receipt's, where embedding counts for the whole batch."""
    together = sum(stage.seconds for stage in hits.receipt.stages if stage.name == "embed")
    return max(hits.receipt.seconds - together * (asked - 1) / asked, 0.0)


# --- documents --------------------------------------------------------------------------------------------------------
def ranked(hit: Hit) -> Ranked:
    """A hit as a place in a ranking."""
    return Ranked(hit.document_id, hit.score, hit.chunk_id, hit.start, hit.end)


def documents(run: Run) -> Run:
    """The same run with each document once, where its best chunk stands, with that chunk's score."""
    return replace(run, rankings={id_: collapse(places) for id_, places in run.rankings.items()})


def collapse(places: Iterable[Ranked]) -> tuple[Ranked, ...]:
    """Each document once, where its first chunk stands."""
    best: dict[str, Ranked] = {}
    for place in places:
        if place.document_id not in best:
            best[place.document_id] = Ranked(place.document_id, place.score)
    return tuple(best.values())


# --- what was asked how -----------------------------------------------------------------------------------------------
def settings_of(source: Index | Retriever, recipe: SearchRecipe | None = None) -> SearchRecipe:
    """How a search of this source is made, where ``recipe`` does not say."""
    if recipe is None and isinstance(source, Retriever):
        recipe = source.recipe
    if recipe is not None:
        return recipe
    index = source if isinstance(source, Index) else source.index
    with index._opened.reading() as version:
        return version.record.search_recipe()


def configuration_of(index: Index, recipe: SearchRecipe, k: int) -> dict[str, Any]:
    """Settings and fingerprints of a search, as JSON. Nothing of it hangs on the machine, the place or the time."""
    status = index.status()
    return {
        "index": dict(status.recipe),
        "search": recipe_dict(recipe),
        "k": k,
        "model": status.model,
        "fingerprint": status.fingerprint,
        "dimensions": status.dimensions,
        "version": status.version,
        "documents": status.documents,
        "chunks": status.chunks,
    }


def recipe_dict(recipe: SearchRecipe) -> dict[str, Any]:
    """A search recipe as JSON; a reranker of your own goes by its name."""
    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    return values | {"rerankers": [{"model": _model(step), "depth": step.depth} for step in recipe.rerankers]}


def _model(step: RerankStep) -> str:
    return step.model if isinstance(step.model, str) else step.model.name


def words_of(recipe: SearchRecipe) -> str:
    """What a recipe has that the default has not, in words; ``default`` if that is nothing."""
    ordinary = recipe_dict(SearchRecipe())
    changed = {name: value for name, value in recipe_dict(recipe).items() if value != ordinary[name]}
    parts = [str(changed.pop("mode"))] if "mode" in changed else []
    steps = changed.pop("rerankers", [])
    parts += [f"{name}={value}" for name, value in changed.items()]
    parts += [f"rerank {step['model']} ({step['depth']})" for step in steps]
    return ", ".join(parts) or "default"

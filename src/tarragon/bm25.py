"""What BM25 the engine really computes: the weights of words and the average length that its scores imply.

The embedded engine counts both live. Other set-ups do not: a sparse vector with an IDF modifier counts deleted chunks
until the next optimisation, and BM25 made by a client assumes an average length. So it is measured, through nothing but
lexical queries of single words. For a word that stands once in a chunk of ``l`` words the score is

    s = idf · (k₁ + 1) / (1 + k₁ · (1 − b + b · l / average))

Two chunks of different length give the average, whatever idf is; with it each score gives idf. The engine's analyser is
not known here, and need not be: a stop word is a word that finds nothing, and words that share their first letters with
another of the chunk, which a stemmer could join, are left out. Medians over words take care of the rest.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from uuid import UUID

from tarragon.protocols import LexicalLeg, SearchRequest, Store

K1, B = 1.2, 0.75
"""The engine's, and everybody's, defaults."""

PROBES = 12
"""Words that are measured."""

FEWEST = 3
"""Words from which a measurement says something."""

MOST_HITS = 20_000
"""Words in more chunks are not measured: the answer would be long."""

DISTINCT = 1_500
"""Distinct words that may be asked whether they are stop words: at .2 ms each on the embedded engine."""

STEM = 3
"""First letters by which words may be forms of one."""

LAST_LETTER = "\u024f"
"""Of the Latin script. Others may be cut into words differently than here."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Attributes:
        words: Single words.
        counted: Their idf, from how many chunks have them now.
        implied: Their idf, as the engine's scores imply it.
        average: Words of a chunk on average, stop words left out.
        implied_average: The same, as the engine's scores imply it; infinite where length plays no part.
        passages: Chunks that were looked at.
    """

    words: tuple[str, ...]
    counted: tuple[float, ...]
    implied: tuple[float, ...]
    average: float
    implied_average: float
    passages: int


def inverse_frequency(chunks: int, containing: int) -> float:
    """The idf of Lucene and Qdrant: ln(1 + (N − n + ½) / (n + ½))."""
    return math.log(1 + (chunks - containing + 0.5) / (containing + 0.5))


def measure(
    store: Store, texts: Mapping[UUID, str], tokens: Mapping[UUID, int], average_tokens: float
) -> Measured | str:
    """Measure through lexical queries; or why that is not possible.

    Args:
        store: To be asked.
        texts: What is searched, of a sample of chunks.
        tokens: How many of the model's tokens each of these chunks has.
        average_tokens: Of all chunks: how long the sample is, compared with the rest.
    """
    words = dict(_splittable(texts))
    stop_words = _stop_words(store, {word for chunk in words.values() for word in chunk})
    kept = {id_: [word for word in chunk if word not in stop_words] for id_, chunk in words.items()}
    kept = {id_: chunk for id_, chunk in kept.items() if chunk}
    probes = list(_probes(store, kept))
    if len(probes) < FEWEST:
        return f"only {len(probes)} words stand once in chunks of different length; at least {FEWEST} are needed"
    average = median(_average(scores) for _, _, scores in probes)
    total = store.count()
    sampled = sum(map(len, kept.values())) / max(1, sum(tokens[id_] for id_ in kept))
    return Measured(
        tuple(word for word, _, _ in probes),
        tuple(inverse_frequency(total, containing) for _, containing, _ in probes),
        tuple(median(score * _damping(length / average) for length, score in scores) for _, _, scores in probes),
        sampled * average_tokens,
        average,
        len(kept),
    )


def _splittable(texts: Mapping[UUID, str]) -> Iterator[tuple[UUID, list[str]]]:
    """The words of chunks in the Latin script, until there are `DISTINCT`."""
    seen: set[str] = set()
    for id_, text in texts.items():
        if len(seen) < DISTINCT and all(letter <= LAST_LETTER for letter in text if letter.isalpha()):
            words = [word.lower() for word in _WORD.findall(text)]
            seen.update(words)
            yield id_, words


def _stop_words(store: Store, words: set[str]) -> set[str]:
    return {word for word in words if word.isalpha() and not _ask(store, word, 1)}


def _probes(store: Store, kept: Mapping[UUID, Sequence[str]]) -> Iterator[tuple[str, int, list[tuple[int, float]]]]:
    """Words, how many chunks have them, and length and score of chunks of different lengths where they stand once."""
    places: dict[str, list[UUID]] = defaultdict(list)
    for id_, chunk in kept.items():
        stems = Counter(word[:STEM] for word in chunk)
        for word in chunk:
            if word.isalpha() and len(word) > STEM and stems[word[:STEM]] == 1:
                places[word].append(id_)
    usable = [word for word, ids in places.items() if len({len(kept[id_]) for id_ in ids}) > 1]
    ranked = sorted(usable, key=lambda word: (-len(places[word]), word))
    for word in ranked[:: max(1, len(ranked) // PROBES)][:PROBES]:
        found = _ask(store, word, MOST_HITS)
        scores = [(len(kept[id_]), found[id_]) for id_ in places[word] if id_ in found]
        if len(found) < MOST_HITS and len({length for length, _ in scores}) > 1:
            yield word, len(found), scores


def _ask(store: Store, word: str, limit: int) -> Mapping[UUID, float]:
    return store.search(SearchRequest(lexical=LexicalLeg(word, limit))).lexical or {}


def _average(scores: Sequence[tuple[int, float]]) -> float:
    """From the shortest and the longest chunk: s₁/s₂ = d(l₂)/d(l₁), solved for the average length."""
    (short, high), (long, low) = min(scores), max(scores)
    ratio = high / low
    if ratio <= 1:
        return math.inf
    fixed = 1 + K1 * (1 - B)
    average = K1 * B * (long - ratio * short) / (fixed * (ratio - 1))
    return average if average > 0 else math.inf


def _damping(relative_length: float) -> float:
    """What a score of a word that stands once is to be multiplied with to give its idf."""
    return (1 + K1 * (1 - B + B * relative_length)) / (K1 + 1)

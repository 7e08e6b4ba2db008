"""Do lexical indexes score as their definitions say, and find about the same?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import mean, median
from uuid import UUID

from benchmarks.lexical_peers import Bm25s, Lexical, Ours
from tarragon.bm25 import inverse_frequency, measure

SAMPLE = 300
"""Texts whose words are probed."""

FIRST = 10
K1, B = 1.5, 0.75
"""Of bm25s."""


def engine_deviation(ours: Ours, texts: Sequence[str]) -> float:
    """How far the engine's idf is off what its scores should imply, in the median word: see `tarragon.bm25`."""
    assert ours.store is not None
    step = max(1, len(texts) // SAMPLE)
    sample = {UUID(int=row): texts[row] for row in range(0, len(texts), step)}
    lengths = {id_: len(text.split()) for id_, text in sample.items()}
    measured = measure(ours.store, sample, lengths, mean(len(text.split()) for text in texts))
    if isinstance(measured, str):
        raise SystemExit(f"the scores of the engine cannot be checked: {measured}")
    pairs = zip(measured.counted, measured.implied, strict=True)
    return median(abs(implied / counted - 1) for counted, implied in pairs)


def bm25s_deviation(peer: Bm25s, queries: Sequence[str]) -> float:
    """The largest relative difference between its best scores and the formula of Lucene on its own words.

    s = Σ idf · tf / (tf + k₁ (1 − b + b · l / average)), repeated words of the query counting again.
    """
    average = sum(map(len, peer.tokens)) / len(peer.tokens)
    asked = [peer.tokenizer.tokenize([query], update_vocab=False, show_progress=False)[0] for query in queries]
    wanted = {token for tokens in asked for token in tokens}
    containing = Counter(token for tokens in peer.tokens for token in wanted.intersection(tokens))
    worst = 0.0
    for query, tokens in zip(queries, asked, strict=True):
        for row, score in peer.search(query, FIRST):
            counts, length = Counter(peer.tokens[row]), len(peer.tokens[row])
            damped = K1 * (1 - B + B * length / average)
            right = math.fsum(
                inverse_frequency(len(peer.tokens), containing[token]) * counts[token] / (counts[token] + damped)
                for token in tokens
            )
            worst = max(worst, abs(score / right - 1) if right else abs(score))
    return worst


def overlap(one: Lexical, other: Lexical, queries: Sequence[str]) -> float:
    """Mean share of the first ten of one that are among the first ten of the other."""
    shares = []
    for query in queries:
        first, second = ({row for row, _ in side.search(query, FIRST)} for side in (one, other))
        shares += [len(first & second) / len(first)] if first else []
    return mean(shares) if shares else 1.0

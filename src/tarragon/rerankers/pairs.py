"""Question and passage → the ids that a cross-encoder reads.

The question is tokenised once and not again for each passage, and a passage once in its life. A pair is
``[CLS] question [SEP] passage [SEP]``, or whatever the model's tokenizer puts around and between two texts, read off
one pair of it. Whether the ids are then its own for every pair is for the caller to try, on `probes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tarragon.rerankers.memo import Memo
from tarragon.types import IntArray

MEMO_BYTES = 64 << 20
"""Of passages' ids: some 50,000 passages of 250 tokens."""

_WORDS = ("key", "naïve", "漢字", "مرحبا", "x=f(a_b)[0]", "🙂", "Größe")


@dataclass(frozen=True, slots=True)
class Pair:
    """What the model reads of a pair.

    Attributes:
        ids: Shape ``(tokens,)``.
        types: Which text each token is from, as the model is told, shape ``(tokens,)``.
        truncated: Tokens that were cut off.
    """

    ids: IntArray
    types: IntArray
    truncated: int


class PairTokenizer:
    """Builds pairs. Safe to use from several threads.

    Args:
        backend: A ``tokenizers.Tokenizer``. It is copied: transformers changes the original's settings at each call.
        limit: Most tokens in a pair.
        cuts_left: Whether what is too long loses its start.
        memo_bytes: For passages' ids.
    """

    def __init__(self, backend: Any, limit: int, *, cuts_left: bool = False, memo_bytes: int = MEMO_BYTES) -> None:
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.definition: str = self._tokenizer.to_str()
        self.limit = limit
        self._cuts_left = cuts_left
        self._memo: Memo[IntArray] = Memo(memo_bytes)
        self._marks, self._types = self._template()
        self._room = max(0, limit - sum(len(marks) for marks, _ in self._marks))

    def pairs(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One pair per passage, in order."""
        question = self._tokenize([query])[0]
        return [self._pair(question, row) for row in self._memo.rows(passages, self._tokenize)]

    def _tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _template(self) -> tuple[list[tuple[IntArray, IntArray]], tuple[int, int]]:
        """The marks before, between and after the texts, with their types; and the types of the two texts."""
        encoding = self._tokenizer.encode("a", "b")
        sides = encoding.sequence_ids
        first = [place for place, side in enumerate(sides) if side == 0] or [0]
        second = [place for place, side in enumerate(sides) if side == 1] or [len(sides)]
        parts = [slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None)]
        ids, types = np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.int32)
        marks = [(ids[part], types[part]) for part in parts]
        return marks, (int(types[first[0]]), int(types[min(second[0], len(types) - 1)]))

    def _pair(self, question: IntArray, passage: IntArray) -> Pair:
        keep = longest_first(len(question), len(passage), self._room)
        texts = [self._cut(question, keep[0]), self._cut(passage, keep[1])]
        types = [np.full(len(text), type_, dtype=np.int32) for text, type_ in zip(texts, self._types, strict=True)]
        (before, before_types), (between, between_types), (after, after_types) = self._marks
        return Pair(
            np.concatenate([before, texts[0], between, texts[1], after]),
            np.concatenate([before_types, types[0], between_types, types[1], after_types]),
            len(question) + len(passage) - len(texts[0]) - len(texts[1]),
        )

    def _cut(self, ids: IntArray, length: int) -> IntArray:
        if len(ids) <= length:
            return ids
        return ids[len(ids) - length :] if self._cuts_left else ids[:length]


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay where both together may have ``room``.

    The strategy of that name in the tokenizers library: the shorter text stays whole if it has at most half of the
    room, else both get half, and the longer one (of equal ones the second) the odd token.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)


def probes(limit: int) -> list[tuple[str, str]]:
    """Pairs in several scripts, short, empty, and too long on either side or on both."""
    words = " ".join(_WORDS)
    long = " ".join(_WORDS[place % len(_WORDS)] for place in range(min(limit, 10_000) + 7))
    half = " ".join(_WORDS[place % len(_WORDS)] for place in range(min(limit, 10_000) // 2))
    short = ["", "a", "A short question?", words, " \n\t" + words]
    too_long = [("a", long), (long, "a"), (words, long), (half, long), (long, half), (long, long), ("", long)]
    return [*((first, second) for first in short for second in short), *too_long]

"""What reads a question and a passage together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RerankScores:
    """What a reranker returns.

    Attributes:
        scores: One per passage, in the order of the passages; higher is better. None: there was no time for it.
        tokens: Tokens the model was given, special tokens included, padding not; 0 where that is not known.
        truncated: Tokens beyond the model's limit, which it did not see.
    """

    scores: Sequence[float | None]
    tokens: int = 0
    truncated: int = 0


class Reranker(Protocol):
    """A question and passages → a score each. The same pair gets the same score in any batch and any order.

    Raises:
        RerankingFailed: From `score`, whatever went wrong: the caller goes on without it, or not.
    """

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that changes a score, and nothing else: see `tarragon.identity.fingerprint`."""
        ...

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        """Score each passage.

        Args:
            query: The question.
            passages: The best first: where time runs out, the first ones have been scored.
            is_over: Asked between two batches; True: stop, and leave the rest without a score.
        """
        ...

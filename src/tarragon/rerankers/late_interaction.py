"""Late interaction as a reranker: each token of the question finds its best token of the passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tarragon.errors import RerankingFailed
from tarragon.interaction import maxsim
from tarragon.protocols import LateEncoder, RerankScores
from tarragon.rerankers.batching import groups, never
from tarragon.rerankers.memo import Memo
from tarragon.types import FloatArray

GROUP_TOKENS = 2_048
"""Tokens that are embedded between two looks at the clock."""

MEMO_BYTES = 256 << 20
"""Of passages' vectors: some 2,000 passages of 250 tokens with 128 dimensions."""


class LateInteractionReranker:
    """A late-interaction encoder, such as ColBERT, as a `Reranker`.

    The score is MaxSim by the number of the question's vectors: 1/n · Σ over the question's n vectors of the largest
    dot product with any of the passage's. For unit vectors it lies between -1 and 1. One question's scores are in the
    order that MaxSim puts them in; Khattab and Zaharia, "ColBERT", SIGIR 2020.

    Args:
        encoder: Makes the vectors.
        memo_bytes: For passages' vectors, so that a passage is embedded once and not for each question.
    """

    def __init__(self, encoder: LateEncoder, *, memo_bytes: int = MEMO_BYTES) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._memo: Memo[FloatArray] = Memo(memo_bytes)

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: the encoder's, whose vectors decide every score."""
        return {**self._encoder.identity, "kind": "late-reranker"}

    def score(self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = never) -> RerankScores:
        """See `tarragon.protocols.Reranker`. ``tokens`` and ``truncated`` count what was embedded now."""
        try:
            return self._score(query, passages, is_over)
        except Exception as error:
            raise RerankingFailed(f"{self.name} cannot score: {type(error).__name__}: {error}") from error

    def _score(self, query: str, passages: Sequence[str], is_over: Callable[[], bool]) -> RerankScores:
        scores: list[float | None] = [None] * len(passages)
        if not passages or is_over():
            return RerankScores(scores)
        asked = self._encoder.encode_queries([query])
        tokens, truncated = asked.tokens, asked.truncated

        def embed(texts: list[str]) -> Sequence[FloatArray]:
            nonlocal tokens, truncated
            made = self._encoder.encode_documents(texts)
            tokens, truncated = tokens + made.tokens, truncated + made.truncated
            return made.vectors

        for group in groups(passages, GROUP_TOKENS, is_over):
            vectors = self._memo.rows([passages[place] for place in group], embed)
            scores[group.start : group.stop] = mean_max_sim(asked.vectors[0], vectors)
        return RerankScores(scores, tokens, truncated)


def mean_max_sim(question: FloatArray, passages: Sequence[FloatArray]) -> list[float]:
    """Mean over the question's vectors of the largest dot product with any of a passage's, for each passage.

    Args:
        question: Shape ``(tokens, dimensions)``, at least one.
        passages: Each of shape ``(its tokens, dimensions)``, at least one.
    """
    return [maxsim(question, vectors) / len(question) for vectors in passages]

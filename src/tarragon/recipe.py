"""The settings, in two types: what is baked into stored data, and what is not.

A change of `SearchRecipe` never touches stored data. A change of `IndexRecipe` means other chunks or other vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from tarragon.errors import InvalidRecipe

if TYPE_CHECKING:
    from tarragon.protocols import Reranker

BUNDLED = "bundled"
"""Names the model of the extra ``tarragon[bundled]``: all-MiniLM-L6-v2."""

Chunking = Literal["structure", "whole"]
Language = Literal[
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
    "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "turkish", "neutral",
]  # fmt: skip
Mode = Literal["hybrid", "dense", "lexical", "sparse"]
Words = Literal["bm25", "sparse", "both"]
Fusion = Literal["dbsf", "rrf", "convex", "calibrated"]
Datatype = Literal["float32", "float16", "int8"]
OnFailure = Literal["degrade", "raise"]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidRecipe(f"{name}={value!r} is not one of {', '.join(choices)}", name=name, value=value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(name: str, value: object, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidRecipe(f"{name}={value!r} must be a whole number and at least {least}")


def _check_share(name: str, value: object) -> None:
    if not (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1):
        raise InvalidRecipe(f"{name}={value!r} must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class IndexRecipe:
    """What is baked into stored data.

    Attributes:
        model: A sentence-transformers model: a name or a local folder; or ``fastembed:``, ``openai:``, ``tei:``,
            ``static:`` or ``joint:`` and what docs/models.md says. None: the bundled one.
        document_prompt: Put before each text that is embedded. None: what the model's own configuration or card says.
        dimensions: Keep only the first so many of the model's, for models trained for it. None: all.
        chunking: ``structure`` cuts along headings, paragraphs, lists, code and sentences; ``whole`` makes one chunk of
            each document.
        chunk_tokens: Most tokens in a chunk, headings included. Capped by what the model can take.
        language: Of the words: stemmer and stop words of the lexical leg. ``neutral`` has neither and knows every
            script, those without spaces too.
        sparse_model: A learned sparse model, such as SPLADE, beside the dense one: see docs/models.md. None: none.
        late_model: A late-interaction model, such as ColBERT, that scores the candidates again. None: none.
        late_datatype: How its vectors are kept: ``int8`` takes a quarter of ``float32``.
    """

    model: str | None = None
    document_prompt: str | None = None
    dimensions: int | None = None
    chunking: Chunking = "structure"
    chunk_tokens: int = 256
    language: Language = "english"
    sparse_model: str | None = None
    late_model: str | None = None
    late_datatype: Datatype = "float32"

    def __post_init__(self) -> None:
        _check_choice("chunking", self.chunking, get_args(Chunking))
        _check_choice("language", self.language, get_args(Language))
        _check_choice("late_datatype", self.late_datatype, get_args(Datatype))
        _check_whole("chunk_tokens", self.chunk_tokens, 16)  # fewer are too little for a sentence
        if self.dimensions is not None:
            _check_whole("dimensions", self.dimensions)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IndexRecipe:
        """Read `to_dict`. Raises `InvalidRecipe` on a name that this version does not know."""
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise InvalidRecipe(f"unknown settings {sorted(unknown)}; was the index made by a newer Tarragon?")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class RerankStep:
    """One reranker, and how many of the best it reads.

    Attributes:
        model: A name that `tarragon.rerankers.load_reranker` knows, or your own reranker.
        depth: Passages that it scores. The rest stay behind them, in their order.
    """

    model: str | Reranker
    depth: int = 50

    def __post_init__(self) -> None:
        _check_whole("depth", self.depth)


@dataclass(frozen=True, slots=True)
class SearchRecipe:
    """How to search; can differ from query to query.

    Attributes:
        mode: ``hybrid`` fuses all legs; ``dense``, ``lexical`` and ``sparse`` use one.
        words: What the legs by words are in a hybrid search: ``bm25``, the learned ``sparse`` one instead of it, or
            ``both``. By default both, where the index has a sparse model.
        depth: Candidates each leg contributes before fusion (at least ``k``). evals/README.md has what it does.
        fusion: How the legs' scores become one ranking: see `tarragon.fusion`. A single leg keeps its own scores,
            unless ``min_score`` asks for calibrated ones.
        rrf_k: The constant of reciprocal rank fusion.
        dense_weight: Share of the dense leg, 0 (only words) to 1 (only vectors). None: the method's own.
        min_score: Leave out what scores less in ``calibrated`` fusion, such as 4.5: nothing relevant then gives no
            hits. docs/fusion.md has what it keeps and rejects. None: keep all.
        first_pass: Search the prefix space first, where `Index.tune` made one. False: never.
        late: Let the late-interaction space score the candidates again, where the index has one.
        rerankers: Cross-encoders and the like, one after the other.
        rerank_budget_ms: Time for all of them; what does not fit stays behind what was scored. None: no limit.
        on_rerank_failure: ``degrade`` returns the ranking without the one that failed, and says so in the receipt.
        query_prompt: Replaces the model's own query prompt.
        diversity: Between 0 (off) and 1: how much a hit that is like a better one loses (maximal marginal relevance).
        per_document: Most hits of one document. None: any number.
    """

    mode: Mode = "hybrid"
    words: Words | None = None
    depth: int = 100
    fusion: Fusion = "calibrated"
    rrf_k: int = 60
    dense_weight: float | None = None
    min_score: float | None = None
    first_pass: bool = True
    late: bool = True
    rerankers: tuple[RerankStep, ...] = ()
    rerank_budget_ms: float | None = None
    on_rerank_failure: OnFailure = "degrade"
    query_prompt: str | None = None
    diversity: float = 0.0
    per_document: int | None = None

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, get_args(Mode))
        _check_choice("fusion", self.fusion, get_args(Fusion))
        _check_choice("on_rerank_failure", self.on_rerank_failure, get_args(OnFailure))
        if self.words is not None:
            _check_choice("words", self.words, get_args(Words))
        for name in ("depth", "rrf_k"):
            _check_whole(name, getattr(self, name))
        if self.per_document is not None:
            _check_whole("per_document", self.per_document)
        for name in ("first_pass", "late"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRecipe(f"{name}={getattr(self, name)!r} must be True or False")
        _check_share("diversity", self.diversity)
        if self.dense_weight is not None:
            _check_share("dense_weight", self.dense_weight)
        if self.min_score is not None and not (_is_number(self.min_score) and math.isfinite(self.min_score)):
            raise InvalidRecipe(f"min_score={self.min_score!r} must be a finite number")
        if self.min_score is not None and self.fusion != "calibrated":
            raise InvalidRecipe(f"min_score={self.min_score} needs fusion='calibrated'; no other score means anything")
        if self.rerank_budget_ms is not None and not (_is_number(self.rerank_budget_ms) and self.rerank_budget_ms >= 0):
            raise InvalidRecipe(f"rerank_budget_ms={self.rerank_budget_ms!r} must be a number and not negative")
        if self.query_prompt is not None and not isinstance(self.query_prompt, str):
            raise InvalidRecipe(f"query_prompt={self.query_prompt!r} must be a text")
        if not isinstance(self.rerankers, tuple) or not all(isinstance(step, RerankStep) for step in self.rerankers):
            raise InvalidRecipe(
                f"rerankers={self.rerankers!r} must be a tuple of RerankStep, such as (RerankStep(...),)"
            )

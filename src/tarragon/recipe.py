"""The settings, in two types: what is baked into stored data, and what is not.

A change of `SearchRecipe` never touches stored data. A change of `IndexRecipe` means other chunks or other vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from tarragon.errors import InvalidRecipe

BUNDLED = "bundled"
"""Names the model of the extra ``tarragon[bundled]``: all-MiniLM-L6-v2."""

Chunking = Literal["structure", "whole"]
Language = Literal[
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian",
    "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "turkish", "neutral",
]  # fmt: skip
Mode = Literal["hybrid", "dense", "lexical"]
Fusion = Literal["dbsf", "rrf"]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidRecipe(f"{name}={value!r} is not one of {', '.join(choices)}", name=name, value=value)


@dataclass(frozen=True, slots=True)
class IndexRecipe:
    """What is baked into stored data.

    Attributes:
        model: A sentence-transformers model: a name or a local folder. None: the bundled one.
        document_prompt: Put before each text that is embedded. None: what the model's own configuration or card says.
        dimensions: Keep only the first so many of the model's, for models trained for it. None: all.
        chunking: ``structure`` cuts along headings, paragraphs, lists, code and sentences; ``whole`` makes one chunk of
            each document.
        chunk_tokens: Most tokens in a chunk, headings included. Capped by what the model can take.
        language: Of the words: stemmer and stop words of the lexical leg. ``neutral`` has neither and knows every
            script, those without spaces too.
    """

    model: str | None = None
    document_prompt: str | None = None
    dimensions: int | None = None
    chunking: Chunking = "structure"
    chunk_tokens: int = 256
    language: Language = "english"

    def __post_init__(self) -> None:
        _check_choice("chunking", self.chunking, get_args(Chunking))
        _check_choice("language", self.language, get_args(Language))
        if self.chunk_tokens < 16:
            raise InvalidRecipe(f"chunk_tokens={self.chunk_tokens} is below 16, too little for a sentence")
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidRecipe(f"dimensions={self.dimensions} must be positive")

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
class SearchRecipe:
    """How to search; can differ from query to query.

    Attributes:
        mode: ``hybrid`` fuses both legs; ``dense`` and ``lexical`` use one.
        depth: Candidates each leg contributes before fusion (at least ``k``). evals/README.md has what it does.
        fusion: ``dbsf`` adds the legs' scores, each measured in standard deviations of that leg over all candidates;
            ``rrf`` adds reciprocal ranks.
        query_prompt: Replaces the model's own query prompt.
    """

    mode: Mode = "hybrid"
    depth: int = 100
    fusion: Fusion = "dbsf"
    query_prompt: str | None = None

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, get_args(Mode))
        _check_choice("fusion", self.fusion, get_args(Fusion))
        if self.depth < 1:
            raise InvalidRecipe(f"depth={self.depth} must be at least 1")

"""The Rust tokenizer of a model, apart from the model.

Offsets are not asked for: without them tokenising is a fifth faster, and reading them into Python costs as much again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tarragon.types import IntArray


class FastTokenizer:
    """Counts in a model's own tokens, without truncation, padding or special tokens.

    Args:
        backend: A ``tokenizers.Tokenizer``. It is copied: transformers changes the original's settings at each call.
    """

    def __init__(self, backend: Any) -> None:
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.definition: str = self._tokenizer.to_str()
        self.sliceable = _is_sliceable(json.loads(self.definition))
        self.prefix, self.suffix = self._special_tokens()

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """See `tarragon.protocols.Tokenizer`."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids that the model wants before and after every text."""
        inner: list[int] = self._tokenizer.encode("a", add_special_tokens=False).ids
        outer: list[int] = self._tokenizer.encode("a").ids
        for start in range(len(outer) - len(inner) + 1):
            if outer[start : start + len(inner)] == inner:
                return outer[:start], outer[start + len(inner) :]
        return [], []


def _is_sliceable(definition: dict[str, Any]) -> bool:
    """BERT's: pre-tokenised at white space, punctuation and ideographs, and each word looked up on its own.

    Byte-level BPE makes the space before a word a part of it, and SentencePiece puts one before the first word: there
    the ids of a slice differ from the slice of the ids, and the encoder tokenises each chunk anew.
    """
    kinds = [(definition.get(part) or {}).get("type") for part in ("model", "pre_tokenizer", "normalizer")]
    return kinds == ["WordPiece", "BertPreTokenizer", "BertNormalizer"]

"""Keys: what makes two documents, chunks or vectors the same.

Every key is a BLAKE2b-128 digest over a domain and length-prefixed fields, so that no two lists of fields can give the
same bytes. Names (document ids) count as their NFC form, since file systems change that; contents count exactly.
What a key must not depend on stands with its function; the reasons are in docs/identity.md.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID


def digest(domain: str, *fields: str | bytes) -> bytes:
    """16 bytes that identify this list of fields in this domain. Text counts as its NFC form in UTF-8."""
    state = blake2b(digest_size=16)
    for field in (domain, *fields):
        data = unicodedata.normalize("NFC", field).encode("utf-8", "surrogatepass") if isinstance(field, str) else field
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()


def content_hash(text: str, context: str = "") -> bytes:
    """What a document's text is: its exact characters, and those of its context. Not its time, place or normal form."""
    return digest("text", _exact(text), _exact(context)) if context else digest("text", _exact(text))


def _exact(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def canonical_json(value: Any) -> str:
    """One spelling for equal JSON values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def metadata_hash(metadata: Mapping[str, Any]) -> bytes:
    """What a document's metadata is; not the order of its keys."""
    return digest("metadata", _exact(canonical_json(dict(metadata)))) if metadata else _NO_METADATA


_NO_METADATA = digest("metadata", b"{}")


def chunk_hash(embed_text: str) -> bytes:
    """What a chunk says, before any prompt of a model; not where it stands nor in which document.

    Exact characters: texts that differ in Unicode normalisation are different texts, with different spans.
    """
    return digest("chunk", _exact(embed_text))


def payload_digest(payload: Mapping[str, Any]) -> bytes:
    """What is stored beside a chunk's vector and text."""
    return digest("payload", _exact(canonical_json(dict(payload))))


def chunk_ids(document_id: str, hashes: Sequence[bytes]) -> list[UUID]:
    """An id for each chunk of a document, in order.

    The k-th of equal chunks in a document gets the k-th id. Independent of ordinal, span and chunker, so that text
    which did not change keeps its id, and with it its vector, whatever moved around it.
    """
    seen: Counter[bytes] = Counter()
    ids = []
    for hash_ in hashes:
        ids.append(UUID(bytes=digest("chunk id", document_id, hash_, seen[hash_].to_bytes(8, "little"))))
        seen[hash_] += 1
    return ids


class DocumentState(NamedTuple):
    """What an indexed document was made from: a digest of each part, so that a plan can say which of them changed.

    Attributes:
        content: Of the text.
        metadata: Of the metadata.
        parser: Of what reads the file and finds its structure.
        chunker: Of what cuts the text, the encoder's tokenizer and limit included.
    """

    content: bytes
    metadata: bytes
    parser: bytes
    chunker: bytes

    def pack(self) -> bytes:
        """64 bytes; equal for equal states. `unpack` reads them back."""
        return b"".join(self)

    @classmethod
    def unpack(cls, packed: bytes) -> DocumentState:
        """Read `pack`."""
        return cls(*(packed[start : start + 16] for start in range(0, 64, 16)))


def fingerprint(identity: Mapping[str, str]) -> str:
    """32 hex digits that identify an encoder's space.

    ``identity`` names everything that changes a document's vector (weights, tokenizer, length limit, document prompt,
    pooling, normalisation, dimensions, numeric class) and nothing that does not (device, batch size, path, alias,
    query prompt).
    """
    return digest("fingerprint", canonical_json(dict(identity))).hex()


def space_name(fingerprint: str) -> str:
    """Name of the vectors of a space in the store, so that the engine itself rejects those of another."""
    return f"d_{fingerprint[:12]}"

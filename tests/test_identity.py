from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.identity import (
    DocumentState,
    canonical_json,
    chunk_hash,
    chunk_ids,
    content_hash,
    digest,
    fingerprint,
    metadata_hash,
    space_name,
)

texts = st.text(max_size=8)
fields = st.lists(st.one_of(texts, st.binary(max_size=8)), max_size=4)


def as_bytes(field: str | bytes) -> bytes:
    return field if isinstance(field, bytes) else unicodedata.normalize("NFC", field).encode()


# --- digest -----------------------------------------------------------------------------------------------------------
@given(st.text(max_size=5), fields, st.text(max_size=5), fields)
def test_digests_are_equal_where_domain_and_fields_are(
    domain: str, first: list[str | bytes], other: str, second: list[str | bytes]
) -> None:
    same = [as_bytes(field) for field in (domain, *first)] == [as_bytes(field) for field in (other, *second)]
    assert (digest(domain, *first) == digest(other, *second)) is same


def test_no_field_boundary_moves() -> None:
    """Every way to cut one string into a domain and fields is a different key."""
    text = "abcd"
    digests = set()
    for cuts in itertools.product([False, True], repeat=len(text) - 1):
        parts, start = [], 0
        for at, cut in enumerate(cuts, start=1):
            if cut:
                parts.append(text[start:at])
                start = at
        digests.add(digest(*parts, text[start:]))
    assert len(digests) == 8
    assert len({digest("d", *[""] * count) for count in range(5)}) == 5


def test_a_field_may_hold_what_separates_fields() -> None:
    inner = b"a" + (1).to_bytes(8, "little") + b"b"
    assert digest("d", "a", "b") != digest("d", inner)


def test_text_counts_in_normal_form_and_bytes_as_they_are() -> None:
    assert digest("d", "e\u0301") == digest("d", "é") == digest("d", "é".encode())
    assert digest("d", "e\u0301".encode()) != digest("d", "é".encode())
    assert digest("d", "ﬁ") != digest("d", "fi")  # compatibility forms stay apart
    assert digest("d", "\ud800") != digest("d", "\ud801")


def test_digest_is_blake2b_of_length_prefixed_fields() -> None:
    data = b"\x01" + bytes(7) + b"d" + b"\x02" + bytes(7) + b"\xc3\xa9" + bytes(8)
    assert digest("d", "e\u0301", b"") == blake2b(data, digest_size=16).digest()


# --- documents --------------------------------------------------------------------------------------------------------
@given(texts, texts)
def test_content_hash_knows_every_character(first: str, second: str) -> None:
    assert (content_hash(first) == content_hash(second)) is (first == second)


def test_content_hash_is_not_normalised() -> None:
    """Spans count the exact characters, so another normal form is another text."""
    assert content_hash("e\u0301") != content_hash("é")
    assert content_hash("a\r\n") != content_hash("a\n")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def shuffled(value: object) -> object:
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(texts, json_values, max_size=4))
def test_metadata_hash_ignores_the_order_of_keys_only(metadata: dict[str, object]) -> None:
    again = shuffled(metadata)
    assert isinstance(again, Mapping)
    assert metadata_hash(again) == metadata_hash(metadata)
    assert json.loads(canonical_json(metadata)) == metadata
    assert metadata_hash({**metadata, "one more": 1}) != metadata_hash(metadata)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": None}, {}),
        ({"a": []}, {"a": {}}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": {"b": 1}}, {"a.b": 1}),
    ],
)
def test_metadata_that_differs(first: dict[str, object], second: dict[str, object]) -> None:
    assert metadata_hash(first) != metadata_hash(second)


def test_nan_has_no_spelling() -> None:
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_document_state_is_its_parts_and_can_be_read_back() -> None:
    parts = [digest("part", name) for name in "abcd"]
    state = DocumentState(*parts)
    assert state.pack() == b"".join(parts)
    assert DocumentState.unpack(state.pack()) == state
    changed = {state._replace(**{name: digest("part", "x")}).pack() for name in DocumentState._fields}
    assert len(changed | {state.pack()}) == 5


def test_domains_are_separate() -> None:
    text = "{}"
    assert len({content_hash(text), metadata_hash({}), chunk_hash(text), bytes.fromhex(fingerprint({}))}) == 4


# --- chunks -----------------------------------------------------------------------------------------------------------
hash_lists = st.lists(st.sampled_from([chunk_hash(text) for text in "abcd"]), max_size=8)


def occurrences(hashes: list[bytes]) -> list[tuple[bytes, int]]:
    return [(hash_, hashes[:place].count(hash_)) for place, hash_ in enumerate(hashes)]


@given(hash_lists, hash_lists)
def test_chunk_ids_are_those_of_text_and_occurrence(first: list[bytes], second: list[bytes]) -> None:
    """Whatever is inserted, removed or reordered: the k-th of equal texts has the same id in both lists."""
    known = dict(zip(occurrences(first), chunk_ids("doc", first), strict=True))
    again = dict(zip(occurrences(second), chunk_ids("doc", second), strict=True))
    assert len(set(known.values())) == len(first)
    assert {key: known[key] for key in known.keys() & again} == {key: again[key] for key in known.keys() & again}
    assert {known[key] for key in known.keys() - again}.isdisjoint(again.values())


@given(hash_lists.filter(bool))
def test_chunk_ids_of_two_documents_never_meet(hashes: list[bytes]) -> None:
    assert set(chunk_ids("a", hashes)).isdisjoint(chunk_ids("b", hashes))


def test_a_removed_duplicate_takes_the_last_id() -> None:
    a, b = chunk_hash("a"), chunk_hash("b")
    three = chunk_ids("doc", [a, b, a, a])
    assert chunk_ids("doc", [a, a, b]) == [three[0], three[2], three[1]]


def test_normal_forms_are_different_chunks_since_their_spans_differ() -> None:
    assert chunk_hash("caf\u00e9") != chunk_hash("cafe\u0301")
    assert chunk_hash("a") != chunk_hash("a ")


# --- spaces -----------------------------------------------------------------------------------------------------------
identities = st.dictionaries(
    st.sampled_from(["weights", "pooling", "dimensions"]), st.sampled_from(["a", "b"]), max_size=3
)


@given(identities, identities)
def test_fingerprint_changes_iff_a_field_does(first: dict[str, str], second: dict[str, str]) -> None:
    assert (fingerprint(first) == fingerprint(second)) is (first == second)


def test_fingerprint_ignores_the_order_of_fields() -> None:
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})


def test_space_name() -> None:
    assert space_name("0123456789abcdef" * 2) == "d_0123456789ab"


# --- golden: a change of any of these makes every index that exists stale ---------------------------------------------
def test_keys_stay_what_they_are_between_releases() -> None:
    hash_ = chunk_hash("Title\nSome text.")
    assert digest("d", "a", "b").hex() == "f7d2f9c44d889b616de8dbbd844bcca3"
    assert content_hash("Hello, wörld.\n").hex() == "fa206252a7797be39c821e5d30074f5d"
    assert metadata_hash({"b": [1, 2.5, None, True], "a": "ü"}).hex() == "c2b17d10339bff99f8e78cd1cd2417a0"
    assert hash_.hex() == "0c40baf771691d6776766866188d412f"
    assert chunk_ids("docs/a.md", [hash_, hash_]) == [
        UUID("19c3fbf4-f43c-16f5-925f-5668c22e2a68"),
        UUID("398c3ce3-b1e8-76df-51f1-a14e73259306"),
    ]
    assert fingerprint({"weights": "abc", "dimensions": "384"}) == "7cd877b8e8d4792467a58c6d5f48f3ea"

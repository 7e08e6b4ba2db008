"""What the histories are about: a source, the versions of an index, and the choices that are made at random."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from hypothesis import strategies as st

from tarragon import Document
from tarragon.errors import (
    UnreadableDocument,
)
from tarragon.protocols import SourceItem
from tarragon.reports import Plan
from tests.freshness.faults import PLACES
from tests.freshness.laws import (
    State,
)

IDS = ("a.md", "b.md", "c.txt", "sub/d.md", "sub/e.md", "f.md")
SALTS = ("", "other")
TOKENS = (16, 256)
SENTENCES = (
    "Keys rotate at night.",
    "The walls are cold and the doors are shut.",
    "Who answers the phone on Sunday?",
    "A backup takes an hour.",
    "Doors open at noon, and keys are handed out.",
    "Nobody knows the roof.",
    "Restore from the cold storage first.",
    "The engineer on call sleeps at noon.",
)
HEADINGS = ("# Keys\n\n", "# Doors\n\n", "## Night\n\n", "")
ONLY: Mapping[tuple[str, ...], Callable[[str], bool]] = {
    (): lambda _: True,
    ("sub/",): lambda id_: id_.startswith("sub/"),
    ("*.md",): lambda id_: id_.endswith(".md"),
    ("a.md", "c.txt"): lambda id_: id_ in ("a.md", "c.txt"),
}

paragraphs = st.builds(
    lambda heading, said: heading + " ".join(said),
    st.sampled_from(HEADINGS),
    st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3),
)
texts = st.one_of(st.lists(paragraphs, min_size=1, max_size=4).map("\n\n".join), st.just(" \n\n"))
metadata = st.sampled_from(('{}', '{"lang": "de"}', '{"lang": "en"}', '{"lang": "en", "n": [1, null]}'))  # fmt: skip
ids = st.sampled_from(IDS)
exits = st.sampled_from(("stay", "close", "kill"))
changes = st.lists(
    st.tuples(
        ids, st.sampled_from(("put", "describe", "insert", "shorten", "remove", "break", "copy")), texts, metadata
    ),
    min_size=1,
    max_size=3,
)
Change: TypeAlias = "tuple[str, str, str, str]"
WRITING = [place for place in PLACES if re.search(r"intend$|upsert|switch|set_payload|EdgeStore.delete|settle", place)]
REWRITING = [place for place in PLACES if re.search(r"after .*intend$|upsert|switch", place)]
DELETING = [place for place in PLACES if re.search(r"deletion|EdgeStore.delete", place)]
boundaries = st.one_of(st.integers(0, 30), st.tuples(st.sampled_from(PLACES), st.integers(0, 2)))


NUMBERS = itertools.count()


@dataclass
class Entry:
    """A document of the source."""

    state: State
    revision: int
    readable: bool = True


@dataclass
class Held:
    """A version of the index: under what it was built, and what it serves."""

    salt: str
    tokens: int
    served: dict[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """Which documents a sync may touch."""

    only: tuple[str, ...] = ()
    prune: bool = True
    planned: frozenset[str] | None = None

    def meets(self, document_id: str) -> bool:
        return ONLY[self.only](document_id) and (self.planned is None or document_id in self.planned)


ALL = Scope()


@dataclass(frozen=True)
class SavedPlan:
    """A plan, and what it was made from: for each of its documents what the index had and what the source had."""

    plan: Plan
    parts: Mapping[str, tuple[Any, Any]]
    place: tuple[str, str]
    scope: Scope


class Memory:
    """The model's documents as a source: live, in any order, with hints or without."""

    def __init__(self, entries: Mapping[str, Entry], hints: bool) -> None:
        self._entries = entries
        self._hints = hints
        self.order: Callable[[list[str]], list[str]] = sorted

    def items(self) -> Iterator[SourceItem]:
        return iter([self._item(document_id) for document_id in self.order(list(self._entries))])

    def skipped(self) -> Mapping[str, int]:
        return {}

    def find(self, document_id: str) -> SourceItem | None:
        return self._item(document_id) if document_id in self._entries else None

    def describe(self) -> None:
        return None

    def _item(self, document_id: str) -> SourceItem:
        entry = self._entries[document_id]
        hint = str(entry.revision) if self._hints else None
        return SourceItem(document_id, hint, partial(self._load, document_id))

    def _load(self, document_id: str) -> Document:
        entry = self._entries[document_id]
        if not entry.readable:
            raise UnreadableDocument(f"{document_id} cannot be read")
        return entry.state.document(document_id)

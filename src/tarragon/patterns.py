"""Which documents patterns as in a ``.gitignore`` mean.

Whoever syncs what has changed names hundreds of documents, each by its id. Every pattern is a regular expression that
every id of the source is tried with: 1,000 patterns and 100,000 documents would take minutes. What is only a path or a
name is looked up instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from tarragon.errors import InvalidInput

_PLAIN = re.compile(r"/?(?!\.{1,2}(?:/|$))[^\s#!*?\[\]\\/][^\s*?\[\]\\/]*(?:/(?!\.{1,2}(?:/|$))[^\s*?\[\]\\/]+)*/?")
"""A path or a name, of itself or of a folder, with nothing that is special in a ``.gitignore``."""


@dataclass(frozen=True, slots=True)
class _Plain:
    """Patterns that are paths from the root, and names that may be anywhere; with a ``/`` behind: of folders only."""

    paths: frozenset[str]
    names: frozenset[str]

    def match(self, document_id: str) -> bool:
        """Whether one of them is the document, or a folder that it is in."""
        parts = [f"{part}/" for part in document_id.split("/")]
        return any(one in self.names or one[:-1] in self.names for one in parts[:-1]) or any(
            one in known for one, known in self._own(document_id, parts)
        )

    def _own(self, document_id: str, parts: Sequence[str]) -> Iterator[tuple[str, frozenset[str]]]:
        yield document_id, self.paths
        yield parts[-1][:-1], self.names
        for folder in accumulate(parts[:-1]) if self.paths else ():
            yield folder, self.paths
            yield folder[:-1], self.paths


def matcher(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    """Says of a document's id whether it is meant; None if there are no patterns, and all are.

    Raises:
        InvalidInput: One is no pattern.
    """
    if not patterns:
        return None
    if wrong := [one for one in patterns if not isinstance(one, str)]:
        raise InvalidInput(f"only={list(patterns)!r} cannot be used: {wrong[0]!r} is not a str")
    plain = {one for one in patterns if _PLAIN.fullmatch(one)}
    rest = [one for one in patterns if one not in plain]
    others = _compiled(rest)
    if any(one.startswith("!") for one in rest):  # what is taken back depends on the order
        return _compiled(patterns)
    names = frozenset(one for one in plain if "/" not in one.removesuffix("/"))
    lookup = _Plain(frozenset(one.removeprefix("/") for one in plain - names), names)
    whole = cache(lambda: _compiled(patterns))  # a millisecond a pattern, and hardly ever needed

    def match(document_id: str) -> bool:
        if document_id.startswith(("/", "./")) or "\n" in document_id:  # in which pathspec sees something else
            return whole()(document_id)
        return lookup.match(document_id) or others(document_id)

    return match


def _compiled(patterns: Sequence[str]) -> Callable[[str], bool]:
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(patterns).match_file
    except ValueError as error:
        raise InvalidInput(f"only={list(patterns)!r} cannot be used: {error}") from error

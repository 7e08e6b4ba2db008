"""The files of a folder as documents."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import normalize

from tarragon.errors import InvalidInput, SourceNotFound, SourceProblem
from tarragon.protocols import SourceItem
from tarragon.sources.file import file_item, skip_reason
from tarragon.sources.reading import DEFAULT_MAX_BYTES, NOT_REGULAR, checked_max_bytes, os_reason, unreadable

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


INDEX_MARK = "tarragon.json"
"""A folder with this file is an index: it is never read as documents, not even inside the folder it is made from."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something in the folder.

    Attributes:
        path: Where it is.
        relative: The same from the root on, with ``/``, as the system spells it.
        trail: Device and inode of each folder above it.
    """

    path: str
    relative: str
    trail: frozenset[tuple[int, int]] = frozenset()

    @property
    def document_id(self) -> str:
        return normalize("NFC", self.relative)


class FolderSource:
    """All text files below a folder, and PDF, DOCX and PPTX if the extra ``documents`` is installed.

    A document's id is the file's path relative to the folder, with ``/`` and in Unicode's normal form C; ids ascend.
    ``include`` and ``exclude`` are patterns as in a ``.gitignore``, and ``exclude`` wins. Hidden files and folders are
    skipped. A folder that is hidden or excluded is not entered and counts once. Symbolic links are followed inside the
    root. What cannot be read is listed, so that it is reported: a folder under its relative path with a ``/`` behind.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._root = os.path.abspath(root)
        self._include = _compile("include", include)
        self._exclude = _compile("exclude", exclude)
        self._max_bytes = checked_max_bytes(max_bytes)
        self._skipped: Counter[str] = Counter()

    def items(self) -> Iterator[SourceItem]:
        """Each file, by ascending id. Contents are not read, but for the first 8 KiB where the suffix says nothing.

        Raises:
            SourceNotFound: The folder is not there.
            SourceProblem: It may not be read, or is an index.
        """
        if not os.path.isdir(self._root):
            raise SourceNotFound(f"no folder at {self._root}", path=self._root)
        if os.path.exists(os.path.join(self._root, INDEX_MARK)):
            raise SourceProblem(f"{self._root} is an index, not a folder of documents", path=self._root)
        self._skipped = Counter()
        return self._walk(self._skipped)

    def skipped(self) -> Mapping[str, int]:
        """What the last `items` left out, by reason; complete once its iterator is used up."""
        return dict(self._skipped)

    def _walk(self, skipped: Counter[str]) -> Iterator[SourceItem]:
        """Depth first with a stack of its own, so that no depth of folders is too deep."""
        real_root = os.path.realpath(self._root)
        try:
            stack = _children(_Entry(self._root, ""), os.stat(self._root))
        except OSError as error:
            raise SourceProblem(f"{self._root}: {os_reason(error)}", path=self._root) from error
        seen: set[str] = set()
        while stack:
            entry = stack.pop()
            found = self._visit(entry, real_root)
            if isinstance(found, str):
                skipped[found] += 1
            elif isinstance(found, list):
                stack.extend(found)
            else:
                yield _told_apart(found, entry, seen)

    def _visit(self, entry: _Entry, real_root: str) -> SourceItem | list[_Entry] | str:
        """The file, what is in the folder (last first), or the reason why this is skipped."""
        if os.path.basename(entry.path).startswith("."):
            return "hidden"
        try:
            status = os.stat(entry.path)
        except OSError as error:
            return self._without_status(entry, error)
        is_folder = stat.S_ISDIR(status.st_mode)
        if self._left_out(entry, is_folder):
            return "excluded"
        if os.path.islink(entry.path) and not _is_inside(os.path.realpath(entry.path), real_root):
            return "symlink outside the root"
        if is_folder:
            return self._enter(entry, status)
        if not stat.S_ISREG(status.st_mode):
            return NOT_REGULAR
        reason = skip_reason(entry.path)
        return reason or file_item(entry.path, entry.document_id, status=status, max_bytes=self._max_bytes)

    def _without_status(self, entry: _Entry, error: OSError) -> SourceItem | str:
        """What to do with an entry that the system tells nothing about."""
        if self._left_out(entry, is_folder=False):
            return "excluded"
        if os.path.islink(entry.path) and error.errno == errno.ELOOP:
            return "symlink loop"
        if os.path.islink(entry.path) and isinstance(error, FileNotFoundError):
            return "broken symlink"
        reason, below = f"{entry.path}: {os_reason(error)}", f"{entry.document_id}/"
        return unreadable(entry.document_id, reason, path=entry.path, hides=below)

    def _enter(self, entry: _Entry, status: os.stat_result) -> SourceItem | list[_Entry] | str:
        if os.path.exists(os.path.join(entry.path, INDEX_MARK)):
            return "tarragon index"
        if (status.st_dev, status.st_ino) in entry.trail:
            return "symlink loop"
        try:
            return _children(entry, status)
        except OSError as error:
            below = f"{entry.document_id}/"
            return unreadable(below, f"{entry.path}: {os_reason(error)}", path=entry.path, hides=below)

    def _left_out(self, entry: _Entry, is_folder: bool) -> bool:
        name = f"{entry.document_id}/" if is_folder else entry.document_id
        if self._exclude is not None and self._exclude.match_file(name):
            return True
        return not is_folder and self._include is not None and not self._include.match_file(name)


def _compile(option: str, patterns: Sequence[str]) -> GitIgnoreSpec | None:
    """None where there are no patterns."""
    from pathspec import GitIgnoreSpec

    if isinstance(patterns, str):
        raise InvalidInput(f"{option}={patterns!r} is a string; give a list of patterns: [{patterns!r}]")
    try:
        return GitIgnoreSpec.from_lines([normalize("NFC", pattern) for pattern in patterns]) if patterns else None
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{option}={patterns!r} cannot be used: {error}") from error


def _children(entry: _Entry, status: os.stat_result) -> list[_Entry]:
    """What is in a folder, last first, so that popping them gives ascending ids."""
    trail = entry.trail | {(status.st_dev, status.st_ino)}
    prefix = f"{entry.relative}/" if entry.relative else ""
    with os.scandir(entry.path) as listing:
        inside = sorted(listing, key=_place, reverse=True)
    return [_Entry(child.path, prefix + child.name, trail) for child in inside]


def _place(child: os.DirEntry[str]) -> tuple[str, bool, str]:
    """Sort key among siblings. A folder counts with its ``/``, which orders whole paths; normal form C goes first."""
    name = normalize("NFC", child.name)
    return f"{name}/" if os.path.isdir(child.path) else name, name != child.name, child.name


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _told_apart(item: SourceItem, entry: _Entry, seen: set[str]) -> SourceItem:
    """The item, or one that cannot be loaded where its id is taken or cannot be stored."""
    if not _is_utf8(item.document_id):
        shown = os.fsencode(entry.relative).decode("utf-8", "backslashreplace")
        return unreadable(shown, f"{shown}: its name is not valid UTF-8; rename it", path=entry.path)
    if item.document_id in seen:
        reason = f"{entry.path}: its name differs from another file's in Unicode normalisation only; rename one of them"
        return unreadable(entry.relative, reason, path=entry.path)
    seen.add(item.document_id)
    return item


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)

"""The files of a folder as documents."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from unicodedata import normalize

from tarragon.errors import InvalidInput, SourceNotFound, SourceProblem
from tarragon.protocols import SourceItem
from tarragon.sources.file import FileReader, hint_of, settled_before, skip_reason
from tarragon.sources.reading import DEFAULT_MAX_BYTES, NOT_REGULAR, checked_max_bytes, os_reason, unreadable

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


INDEX_MARK = "tarragon.json"
"""A folder with this file is an index: it is never read as documents, not even inside the folder it is made from."""

RESPELLED = frozenset("K;`\\")
"""ASCII that a name can get by normal form C (of U+212A, U+037E, U+1FEF), or by being shown though no UTF-8."""

_IS_WINDOWS = os.name == "nt"


class _Entry(Protocol):
    """What `os.DirEntry` and `_Named` have in common."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def stat(self) -> os.stat_result: ...

    def is_symlink(self) -> bool: ...


class _Named:
    """Something in a folder that was named, not listed."""

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self.path = os.path.join(folder, name)

    def is_missing(self) -> bool:
        """Whether there is surely nothing. To be asked first."""
        try:
            self._itself: os.stat_result | None = os.lstat(self.path)
        except OSError as error:
            self._itself = None
            return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
        return False

    def stat(self) -> os.stat_result:
        return os.stat(self.path) if self._itself is None or self.is_symlink() else self._itself

    def is_symlink(self) -> bool:
        return self._itself is not None and stat.S_ISLNK(self._itself.st_mode)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that may be entered.

    Attributes:
        path: Where it is.
        prefix: What the relative paths in it begin with, as the system spells it: empty, or ending in ``/``.
        trail: Device and inode of it and of each folder above it.
    """

    path: str
    prefix: str
    trail: frozenset[tuple[int, int]]


class _Look:
    """What holds for a whole look at the source."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.settled = settled_before()

    @cached_property
    def real_root(self) -> str:
        return os.path.realpath(self._root)


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
        self._patterns = {"include": list(include), "exclude": list(exclude)}
        self._max_bytes = checked_max_bytes(max_bytes)
        self._skipped: Counter[str] = Counter()

    def items(self) -> Iterator[SourceItem]:
        """Each file, by ascending id. Contents are not read, but for the first 8 KiB where the suffix says nothing.

        Raises:
            SourceNotFound: The folder is not there.
            SourceProblem: It may not be read, or is an index.
        """
        top = self._top()
        self._skipped = Counter()
        return self._walk(top, self._skipped)

    def skipped(self) -> Mapping[str, int]:
        """What the last `items` left out, by reason; complete once its iterator is used up."""
        return dict(self._skipped)

    def find(self, document_id: str) -> SourceItem | None:
        """The item that `items` would give for this id, looking at its path only; None if it would give none.

        Ids that differ in Unicode normalisation only are one id. A file that cannot be seen because of a folder that
        may not be read is not known to be gone: its item is unreadable.

        Raises:
            SourceNotFound: The folder is not there.
            SourceProblem: It may not be read, or is an index.
        """
        return self.find_all([document_id])[0]

    def find_all(self, document_ids: Sequence[str]) -> list[SourceItem | None]:
        """`find` for many ids at one moment: each folder on their paths is looked at once."""
        top, look = self._top(), _Look(self._root)
        known = {"": top}
        return [self._found(top, normalize("NFC", id_), look, known) for id_ in document_ids]

    def _found(self, top: _Folder, wanted: str, look: _Look, known: dict[str, _Folder]) -> SourceItem | None:
        if not _can_be_listed(wanted):
            return None
        found = self._at(wanted, look, known)
        if found is not None and found.hides is None:
            return found
        if found is None and wanted.isascii() and RESPELLED.isdisjoint(wanted) and not wanted.endswith("/"):
            return None
        return self._among_listed(top, wanted)

    def describe(self) -> Mapping[str, Any]:
        """Path, patterns and limit."""
        return {"kind": "folder", "path": self._root, **self._patterns, "max_bytes": self._max_bytes}

    # --- many and one -------------------------------------------------------------------------------------------------
    def _top(self) -> _Folder:
        try:
            status = os.stat(self._root)
        except (OSError, ValueError) as error:
            raise SourceNotFound(f"no folder at {self._root}", path=self._root) from error
        if not stat.S_ISDIR(status.st_mode):
            raise SourceNotFound(f"no folder at {self._root}", path=self._root)
        if os.path.exists(os.path.join(self._root, INDEX_MARK)):
            raise SourceProblem(f"{self._root} is an index, not a folder of documents", path=self._root)
        return _Folder(self._root, "", frozenset([(status.st_dev, status.st_ino)]))

    def _walk(self, top: _Folder, skipped: Counter[str], wanted: str | None = None) -> Iterator[SourceItem]:
        """Depth first with a stack of its own, as no depth is too deep. With ``wanted``, only what leads to this id."""
        look = _Look(self._root)
        try:
            stack = [(top, _children(top, wanted))]
        except OSError as error:
            raise SourceProblem(f"{self._root}: {os_reason(error)}", path=self._root) from error
        seen: set[str] = set()
        while stack:
            folder, children = stack[-1]
            for child in children:
                found = self._visit(child, folder, look)
                if isinstance(found, _Folder):
                    try:
                        stack.append((found, _children(found, wanted)))
                        break
                    except OSError as error:
                        found = _closed(found, error)
                if isinstance(found, str):
                    skipped[found] += 1
                else:
                    yield _told_apart(found, child.path, folder.prefix + child.name, seen)
            else:
                stack.pop()

    def _at(self, wanted: str, look: _Look, known: dict[str, _Folder]) -> SourceItem | None:
        """What is at the very path of an id: its item, one that ``hides`` what is there, or nothing to list.

        ``known`` has the folders that were entered already, by their paths, the root's being empty.
        """
        path, _, name = wanted.rpartition("/")
        found: SourceItem | _Folder | str = known.get(path, known[""])
        for part in [name] if path in known else wanted.split("/"):
            if not isinstance(found, _Folder):
                return found if isinstance(found, SourceItem) and found.hides is not None else None
            child = _Named(found.path, part)
            if child.is_missing():
                return None
            found = self._visit(child, found, look)
            if isinstance(found, _Folder):
                known[found.prefix.removesuffix("/")] = found
        return found if isinstance(found, SourceItem) else None

    def _among_listed(self, top: _Folder, wanted: str) -> SourceItem | None:
        """The item of an id whose file has another spelling, or is behind something that may not be read."""
        hiding: SourceItem | None = None
        for item in self._walk(top, Counter(), wanted):
            if normalize("NFC", item.document_id) == wanted:
                return item
            if item.hides is not None and wanted.startswith(item.hides):
                hiding = hiding or item
        return None if hiding is None else hiding._replace(document_id=wanted, hides=None)

    # --- one entry ----------------------------------------------------------------------------------------------------
    def _visit(self, child: _Entry, folder: _Folder, look: _Look) -> SourceItem | _Folder | str:
        """The file, the folder to enter, or the reason why this is skipped."""
        name = child.name
        if name.startswith("."):
            return "hidden"
        relative = folder.prefix + name
        document_id = relative if relative.isascii() else normalize("NFC", relative)
        try:
            status = os.stat(child.path) if _IS_WINDOWS else child.stat()  # there a listing knows no inodes
            is_symlink = child.is_symlink()
        except OSError as error:
            return self._without_status(child.path, document_id, error)
        is_folder = stat.S_ISDIR(status.st_mode)
        if self._left_out(document_id, is_folder):
            return "excluded"
        if is_symlink and not _is_inside(os.path.realpath(child.path), look.real_root):
            return "symlink outside the root"
        if is_folder:
            return _entered(child.path, relative, folder, status)
        if not stat.S_ISREG(status.st_mode):
            return NOT_REGULAR
        if reason := skip_reason(child.path, name):
            return reason
        reader = FileReader(self._root, relative, document_id, self._max_bytes)
        return SourceItem(document_id, hint_of(status, look.settled), reader)

    def _without_status(self, path: str, document_id: str, error: OSError) -> SourceItem | str:
        """What to do with an entry that the system tells nothing about."""
        if self._left_out(document_id, is_folder=False):
            return "excluded"
        if os.path.islink(path) and error.errno == errno.ELOOP:
            return "symlink loop"
        if os.path.islink(path) and isinstance(error, FileNotFoundError):
            return "broken symlink"
        return unreadable(document_id, f"{path}: {os_reason(error)}", path=path, hides=f"{document_id}/")

    def _left_out(self, document_id: str, is_folder: bool) -> bool:
        name = f"{document_id}/" if is_folder else document_id
        if self._exclude is not None and self._exclude.match_file(name):
            return True
        return not is_folder and self._include is not None and not self._include.match_file(name)


def _compile(option: str, patterns: Sequence[str]) -> GitIgnoreSpec | None:
    """None where there are no patterns."""
    if isinstance(patterns, str):
        raise InvalidInput(f"{option}={patterns!r} is a string; give a list of patterns: [{patterns!r}]")
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines([normalize("NFC", pattern) for pattern in patterns])
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{option}={patterns!r} cannot be used: {error}") from error


def _entered(path: str, relative: str, above: _Folder, status: os.stat_result) -> _Folder | str:
    if os.path.exists(os.path.join(path, INDEX_MARK)):
        return "tarragon index"
    if (status.st_dev, status.st_ino) in above.trail:
        return "symlink loop"
    return _Folder(path, f"{relative}/", above.trail | {(status.st_dev, status.st_ino)})


def _closed(folder: _Folder, error: OSError) -> SourceItem:
    below = normalize("NFC", folder.prefix)
    return unreadable(below, f"{folder.path}: {os_reason(error)}", path=folder.path, hides=below)


def _children(folder: _Folder, wanted: str | None) -> Iterator[os.DirEntry[str]]:
    """What is in a folder and can lead to the ``wanted`` id, so that ids ascend."""
    with os.scandir(folder.path) as listing:
        inside: Iterable[os.DirEntry[str]] = listing
        if wanted is not None:
            inside = [child for child in listing if _leads(folder.prefix + child.name, wanted)]
        return iter(sorted(inside, key=_place))


def _leads(relative: str, wanted: str) -> bool:
    """Whether an id is that of this path or of something below it, however the path is spelt."""
    spellings = normalize("NFC", relative), normalize("NFC", _shown(relative))
    return any(f"{wanted}/".startswith(f"{spelling}/") for spelling in spellings)


def _place(child: os.DirEntry[str]) -> str:
    """Sort key among siblings. A folder counts with its ``/``, which orders whole paths; normal form C goes first."""
    name = child.name
    key = name if name.isascii() else normalize("NFC", name)
    if _is_folder(child):
        return f"{key}/" if key == name else f"{key}/\0{name}"
    return key if key == name else f"{key}\0{name}"


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:
        return False


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _can_be_listed(document_id: str) -> bool:
    """Whether a listing could give this id at all: no way up or out, nothing hidden, nothing that no file is named."""
    parts = document_id.removesuffix("/").split("/")
    if any(part.startswith(".") or not part for part in parts) or "\0" in document_id or not _is_utf8(document_id):
        return False
    return not _IS_WINDOWS or not any(character in document_id for character in "\\:")


def _told_apart(item: SourceItem, path: str, relative: str, seen: set[str]) -> SourceItem:
    """The item, or one that cannot be loaded where its id is taken or cannot be stored."""
    document_id = item.document_id
    if not _is_utf8(document_id):
        shown = _shown(relative)
        return unreadable(shown, f"{shown}: its name is not valid UTF-8; rename it", path=path)
    if document_id in seen:
        reason = f"{path}: its name differs from another file's in Unicode normalisation only; rename one of them"
        return unreadable(relative, reason, path=path)
    seen.add(document_id)
    return item


def _shown(relative: str) -> str:
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)

"""Where the documents of an index come from, kept so that they can be asked again."""

from __future__ import annotations

import json

from tarragon.errors import TarragonError
from tarragon.protocols import FindableSource, Ledger, Source
from tarragon.sources import reopen


class Origins:
    """The source of each namespace: those that this process has synced, and those that a ledger remembers."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[FindableSource, bool]] = {}

    def remember(self, ledger: Ledger, namespace: str, source: Source, *, whole: bool) -> None:
        """Keep where a source is, so that searches, upgrades and repairs can ask it; written only if that is new.

        Of a source that was synced without pruning it is kept that it is not the ``whole`` of its namespace. One that
        only this process can ask, such as documents in memory, is kept until the session ends.
        """
        if isinstance(source, FindableSource):
            self._sources[namespace] = (source, whole)
            description = source.describe()
            values = {"whole": whole, "source": None if description is None else dict(description)}
            text = None if description is None else json.dumps(values, sort_keys=True)
            if ledger.notes().get(_key(namespace)) != text:
                ledger.note(_key(namespace), text)

    def source(self, ledger: Ledger, namespace: str) -> tuple[FindableSource | None, bool]:
        """The source of a namespace and whether it is the whole of it; None if it cannot be opened again."""
        if namespace not in self._sources and (text := ledger.notes().get(_key(namespace))):
            try:
                values = json.loads(text)
                self._sources[namespace] = (reopen(values["source"]), bool(values["whole"]))
            except (TarragonError, OSError, ValueError, KeyError, TypeError):  # of another machine: nothing is known
                return None, False
        return self._sources.get(namespace, (None, False))

    def namespaces(self, *ledgers: Ledger) -> list[str]:
        """Of all documents in these ledgers, and of sources that had none."""
        keys = {key for ledger in ledgers for key in ledger.notes()}
        noted = {key.removeprefix("source ") for key in keys if key.startswith("source ")}
        held = {namespace for ledger in ledgers for namespace in ledger.namespaces()}
        return sorted(noted | held | set(self._sources))

    def whole_source(self, ledger: Ledger, namespace: str) -> FindableSource | None:
        """The source of a namespace, if it has all of its documents and can be opened."""
        source, whole = self.source(ledger, namespace)
        return source if whole else None


def _key(namespace: str) -> str:
    return f"source {namespace}"

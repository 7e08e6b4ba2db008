"""Tarragon with one mistake in it: known wrong designs, to see that the laws notice each of them.

A mutant is a function with a piece of its source replaced. If the piece is no longer there, the mutant is out of date
and says so.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest.mock import patch

from tarragon import identity, planning, preparing, serving, updating, versions
from tarragon.session import Session
from tarragon.store.ledger import SqliteLedger
from tarragon.survey import SurveyOptions
from tarragon.syncing import Sync


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        name: What is wrong.
        owner: The class or module of the function.
        function: Its name.
        old: A piece of its source.
        new: What stands there instead.
    """

    name: str
    owner: Any
    function: str
    old: str
    new: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Everything that uses the function uses the wrong one."""
        original = inspect.getattr_static(self.owner, self.function)
        wrong = self._wrong(original)
        with ExitStack() as stack:
            stack.enter_context(patch.object(self.owner, self.function, wrong))
            for module in _importers(self.function, original):
                stack.enter_context(patch.object(module, self.function, wrong))
            yield

    def _wrong(self, original: Any) -> Any:
        function = original.fget if isinstance(original, property) else original
        inner: Callable[..., Any] = inspect.unwrap(function)
        source = textwrap.dedent(inspect.getsource(inner))
        assert source.count(self.old) == 1, f"the mutant {self.name!r} is out of date: {self.old!r} in\n{source}"
        names: dict[str, Any] = dict(inner.__globals__)
        body = "from __future__ import annotations\n" + source.replace(self.old, self.new)
        exec(compile(body, f"<mutant {self.name}>", "exec"), names)  # decorators are applied by it again
        return names[self.function]


def _importers(name: str, original: Any) -> list[ModuleType]:
    modules = [module for key, module in sys.modules.items() if key.startswith("tarragon")]
    return [module for module in modules if vars(module).get(name) is original]


MUTANTS = (
    Mutant(
        "record first", Sync, "_store_window",
        "self._store.upsert(add)", "self._ledger.switch(writes); self._store.upsert(add)",
    ),
    Mutant(
        "delete before add", Sync, "_store_window",
        "self._ledger.intend(writes)", "self._store.delete(drop); self._ledger.intend(writes)",
    ),
    Mutant("skip the stale delete", Sync, "_store_window", "self._store.delete(drop)", "pass"),
    Mutant("no intent", Sync, "_store_window", "self._ledger.intend(writes)", "pass"),
    Mutant(
        "settle before deleting", Sync, "_store_window",
        "self._store.set_payload(move)", "self._ledger.settle(ids); self._store.set_payload(move)",
    ),
    Mutant(
        "unchecked swap", versions, "require_ready",
        "with session.reading() as serving,", "return\n    with session.reading() as serving,",
    ),
    Mutant("swap behind the source", versions, "require_ready", "if source is not None:", "if False:"),
    Mutant(
        "configured instead of stored model", Session, "encoder_at_hand",
        "wanted = version.record.contract.fingerprint\n",
        "wanted = version.record.contract.fingerprint\n    return self._given[0]\n",
    ),
    Mutant(
        "reader ignores the ledger", SqliteLedger, "served", "AND served AND status != 'deleting'", "",
    ),
    Mutant("reader shows what is being deleted", SqliteLedger, "served", "AND status != 'deleting'", ""),
    Mutant(
        "reader mixes payloads", serving, "current_payload",
        'if payload.get("digest") == chunk.payload.hex():', "if True:",
    ),
    Mutant(
        "chunk id from ordinal", identity, "chunk_ids",
        "hash_, seen[hash_].to_bytes", "len(ids).to_bytes(8, 'little'), seen[hash_].to_bytes",
    ),
    Mutant(
        "chunk id without the document", identity, "chunk_ids",
        'digest("chunk id", document_id,', 'digest("chunk id",',
    ),
    Mutant(
        "hint without contract", SurveyOptions, "contract",
        'digest("contract", self.chunker, self.reader).hex()', '"any"',
    ),
    Mutant("holders includes unserved chunks", SqliteLedger, "holders", "AND served AND status != 'deleting'", ""),
    Mutant(
        "fingerprint ignores a field", identity, "fingerprint",
        "dict(identity)", '{key: value for key, value in identity.items() if key != "salt"}',
    ),
    Mutant("payloads are trusted after a crash", preparing, "_stored", 'row.id: b""', "row.id: row.payload"),
    Mutant(
        "deletion forgets rows first", Sync, "_delete",
        "self._store.delete(chunks)", "self._ledger.commit_deletion(batch); self._store.delete(chunks)",
    ),
    Mutant("deletion without intent", Sync, "_delete", "self._ledger.intend_deletion(batch)", "pass"),
    Mutant(
        "vectors of other spaces are reused", Session, "same_space",
        "if record.contract.fingerprint == space]", "]; like = None",
    ),
    Mutant("an outdated plan is applied", updating, "_planned", "if moved := outdated(saved, now):", "if moved := []:"),
    Mutant(
        "a deleted document returns while it is rewritten", SqliteLedger, "intend",
        "UPDATE chunks SET served = 0 WHERE", "UPDATE chunks SET served = served WHERE",
    ),
    Mutant("unserved chunks are not recorded", SqliteLedger, "intend", "_chunk_rows(writes)", "[]"),
    Mutant(
        "the old chunks stay served", SqliteLedger, "switch",
        "SET served = 0, pending = NULL WHERE", "SET pending = NULL WHERE",
    ),
    Mutant(
        "moved text keeps its place", planning, "diff_chunks",
        "move=tuple(chunk for chunk in wanted if", "move=tuple(chunk for chunk in wanted if False and",
    ),
)  # fmt: skip
"""Each must be caught."""

"""What is known of a version's vectors as a whole: kept in its ledger, read once."""

from __future__ import annotations

import time
from dataclasses import replace

from tarragon import canaries
from tarragon.contract import Prefix
from tarragon.identity import digest
from tarragon.protocols import Catalog, DenseEncoder, EncoderInput, Ledger, OpenVersion
from tarragon.sides import sample_statistics
from tarragon.statistics import SpaceStatistics, unpack
from tarragon.types import FloatArray

KEPT = 8
"""Statistics in memory, some 200 kB each: of a few versions, and their axes."""


class Measures:
    """Statistics of the versions of an index.

    Args:
        catalog: Where it lives.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, SpaceStatistics] = {}

    def statistics(self, version: OpenVersion, key: str | None = None) -> SpaceStatistics | None:
        """Of a version's dense space, or those of another ``key``; None if there are none."""
        key = version.record.statistics if key is None else key
        found = self._known.get(key)
        if found is None and key and (text := version.ledger.attachment(key)):
            found = self._known[key] = unpack(text)
            while len(self._known) > KEPT:
                self._known.pop(next(iter(self._known)), None)
        return found

    def axes(self, version: OpenVersion, prefix: Prefix | None) -> FloatArray | None:
        """What the vectors of a version's first pass are turned onto; None if they are not, or there is none."""
        known = self.statistics(version, prefix.rotation) if prefix is not None and prefix.rotation else None
        return None if known is None else known.axes

    def refresh(self, name: str) -> None:
        """Make the statistics of a version again, after its chunks have changed. The caller is the only writer."""
        with self._catalog.reading(name) as version:
            assert version is not None  # named versions are there or raise
            text = sample_statistics(version.store)
            key = f"statistics {digest(text).hex()}" if text else ""
            former = version.record.statistics
            if key == former:
                return
            if key:
                version.ledger.attach(key, text)
            self._catalog.update(replace(version.record, statistics=key))
            if former:
                version.ledger.attach(former, None)
            self._known.pop(former, None)


def rate_of(ledger: Ledger) -> float | None:
    """Tokens a second that the last sync embedded; None if none has measured it."""
    return float(ledger.notes().get("rate", 0)) or None


def remember_rate(ledger: Ledger, rate: float | None) -> None:
    """Keep the rate of a sync that embedded enough to tell."""
    if rate is not None:
        ledger.note("rate", f"{rate:.1f}")


def measured_rate(encoder: DenseEncoder) -> float:
    """Tokens a second that an encoder embeds on this machine, measured with the canaries after a warm-up."""
    canaries.run(encoder)
    begun = time.perf_counter()
    tokens = encoder.encode_documents([EncoderInput(text) for text in canaries.probes()]).tokens
    return max(tokens, 1) / max(time.perf_counter() - begun, 1e-9)

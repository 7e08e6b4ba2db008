"""One writer at a time on an index that many processes can reach: a lease with a fence.

A point in the catalog's collection says who may write, until when, and under which token. Whoever takes it adds one to
the token, and every record written under it carries that token: a writer that slept through its lease finds its writes
refused where the new one has been (`server_fence`). Times are compared between machines, so their clocks should agree
to a few seconds; where they do not, the lease passes on early or late, and the fence holds either way.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any
from uuid import UUID

from tarragon.errors import IndexLocked, LeaseLost, TarragonError
from tarragon.identity import digest
from tarragon.store.server_fence import FENCE, FencedPoints

POINT = UUID(bytes=digest("server catalog", "lease"))

POLL = 1.0
"""Seconds between looks at a lease that someone else holds."""


class ServerLease:
    """The right to write. Safe to use from several threads.

    Args:
        points: Of the catalog's collection.
        seconds: How long it lasts without being renewed.
    """

    def __init__(self, points: FencedPoints, seconds: float) -> None:
        self._points = points
        self._seconds = seconds
        self._lock = threading.RLock()
        self._held: dict[str, Any] | None = None
        self._renew_at = 0.0

    def acquire(self, wait: float = 0.0) -> None:
        """Take it.

        Raises:
            IndexLocked: Someone else still has it after so many seconds.
        """
        until = time.monotonic() + wait
        while not self._try_to_take():
            rest = until - time.monotonic()
            if rest <= 0:
                raise self._locked()
            time.sleep(min(POLL, rest))

    def _try_to_take(self) -> bool:
        seen = self._read()
        if seen and seen["holder"] is not None and seen["expires"] > time.time():
            return False
        return self._take(seen, token=(seen[FENCE] if seen else 0) + 1)

    def _take(self, seen: dict[str, Any] | None, token: int) -> bool:
        with self._lock:
            start = time.monotonic()
            lease = {"kind": "lease", "holder": _holder(), "expires": time.time() + self._seconds}
            if self._points.write({POINT: lease}, {POINT: seen} if seen else {}, fence=token):
                return False
            self._held = self._read()
            self._renew_at = start + self._seconds / 2
            return self._held is not None and self._held[FENCE] == token

    def check(self) -> int:
        """The token to write under. Renews the lease when half of it is over, so that a request ends before it does.

        Raises:
            LeaseLost: It is not held (any more).
        """
        with self._lock:
            if self._held is None:
                raise LeaseLost(f"{self._where}: no lease is held; write inside `with catalog.writing()`")
            if time.monotonic() >= self._renew_at and not self._take(self._held, self._held[FENCE]):
                self._held = None
                raise self.lost()
            return int(self._held[FENCE])

    def release(self) -> None:
        """Let others write. One that cannot be reached expires by itself."""
        with self._lock:
            held, self._held = self._held, None
            if held is not None:
                free = {"kind": "lease", "holder": None, "expires": 0.0}
                try:
                    self._points.write({POINT: free}, {POINT: held}, fence=held[FENCE])
                except TarragonError:  # what was written stays written; others wait until it expires
                    return

    def lost(self) -> LeaseLost:
        """The error to raise when a write was refused."""
        now = self._read() or {}
        return LeaseLost(
            f"{self._where}: {now.get('holder') or 'another process'} has written meanwhile, so that this process must "
            f"not write any more. What it committed stays; sync again",
            holder=now.get("holder"),
        )

    def _locked(self) -> IndexLocked:
        now = self._read() or {}
        left = max(0, round(now.get("expires", 0.0) - time.time()))
        return IndexLocked(
            f"{self._where} is being written by {now.get('holder')}; its lease ends in {left} s unless it is renewed. "
            "Wait until that is done",
            holder=now.get("holder"),
            expires=now.get("expires"),
        )

    def _read(self) -> dict[str, Any] | None:
        return self._points.read([POINT], all_replicas=True).get(POINT)

    @property
    def _where(self) -> str:
        return self._points.connection.location


def _holder() -> str:
    return f"{socket.gethostname()} (pid {os.getpid()})"

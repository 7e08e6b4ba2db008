"""One encoder out of several of the same model, each on a device of its own.

The texts of a call are cut into blocks, longest first, and each encoder takes the next one when it is free. A thread
drives each; they are made anew for each call, so that they have the priority of whoever asked (`background`), and no
thread outlives a call: there is nothing to close. Starting them takes microseconds, a call seconds.

A question goes to the encoder with the fewest calls in progress, in turn where there are several of those.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from tarragon.encoders.spreading import Rows, blocks_of, gathered
from tarragon.errors import InvalidInput
from tarragon.identity import fingerprint
from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput, Tokenizer

WINDOWS_ON_CUDA = 8
"""Windows of text that a GPU holds at once; one is some 65,000 tokens, a batch there (TOKEN_BUDGET). Not measured."""


class SeveralEncoders:
    """Encoders of one model as a single `DenseEncoder`, which is as fast as they are together.

    Name, identity, tokenizer and limits are those of the first.

    Args:
        encoders: At least one. Each must make the same vectors, and take calls from several threads.

    Raises:
        InvalidInput: There is none, or they are not of one model; the message says what differs.
    """

    def __init__(self, encoders: Sequence[DenseEncoder]) -> None:
        if not encoders:
            raise InvalidInput("encoders is empty; give at least one")
        self._encoders = tuple(encoders)
        self._first = self._encoders[0]
        for other in self._encoders[1:]:
            require_same(self._first.identity, other.identity, f"{self._first.name} on {other.device}")
        self._lock = threading.Lock()
        self._busy = [0] * len(self._encoders)
        self._last = -1
        self.windows = sum(WINDOWS_ON_CUDA if encoder.device.startswith("cuda") else 1 for encoder in self._encoders)

    @property
    def name(self) -> str:
        """See `tarragon.protocols.Model`."""
        return self._first.name

    @property
    def device(self) -> str:
        """See `tarragon.protocols.Model`: all of them, separated by commas."""
        return ",".join(encoder.device for encoder in self._encoders)

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.Model`."""
        return self._first.identity

    @property
    def dimensions(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._first.dimensions

    @property
    def max_tokens(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._first.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._first.tokenizer

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`.

        Where an encoder fails, no further block is begun, those in progress are waited for, and its error is raised.
        """
        blocks = blocks_of(inputs, len(self._encoders))
        if len(blocks) < 2:
            return self._first_of(inputs)
        work = _Work(blocks)
        parts: list[tuple[Rows, Embeddings]] = []
        with ThreadPoolExecutor(len(self._encoders), thread_name_prefix="tarragon-device") as threads:
            futures = [threads.submit(self._drive, number, inputs, work) for number in range(len(self._encoders))]
            try:
                for future in as_completed(futures):
                    parts += future.result()
            finally:
                work.stop()
        return gathered(parts, len(inputs), self.dimensions)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        with self._lock:
            count = len(self._encoders)
            turn = [(self._last + step) % count for step in range(1, count + 1)]
            self._last = number = min(turn, key=self._busy.__getitem__)
        with self._using(number) as encoder:
            return encoder.encode_queries(texts, prompt)

    def _first_of(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        with self._using(0) as encoder:
            return encoder.encode_documents(inputs)

    def _drive(self, number: int, inputs: Sequence[EncoderInput], work: _Work) -> list[tuple[Rows, Embeddings]]:
        """What one encoder does of a call."""
        done = []
        with self._using(number) as encoder:
            try:
                for rows in work:
                    done.append((rows, encoder.encode_documents([inputs[row] for row in rows])))
            except BaseException:
                work.stop()
                raise
        return done

    @contextmanager
    def _using(self, number: int) -> Iterator[DenseEncoder]:
        with self._lock:
            self._busy[number] += 1
        try:
            yield self._encoders[number]
        finally:
            with self._lock:
                self._busy[number] -= 1


class _Work:
    """Blocks that several threads take from, until they are used up or one of the threads has failed."""

    def __init__(self, blocks: Sequence[Rows]) -> None:
        self._blocks = iter(blocks)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Rows]:
        while True:
            with self._lock:
                block = next(self._blocks, None)
            if block is None:
                return
            yield block

    def stop(self) -> None:
        """Hand out no more."""
        with self._lock:
            self._blocks = iter(())


def require_same(one: Mapping[str, str], other: Mapping[str, str], name: str) -> None:
    """Make sure that two encoders declare the same vectors. Raises `InvalidInput`, with what differs."""
    if fingerprint(one) == fingerprint(other):
        return
    differing = differing_names(one, other)
    raise InvalidInput(
        f"{name} makes other vectors than the first encoder ({fingerprint(other)[:12]}, not {fingerprint(one)[:12]}); "
        f"they differ in {', '.join(differing)}. All must be of one model with the same settings",
        differing=differing,
    )


def differing_names(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What two identities do not have in common, sorted."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))

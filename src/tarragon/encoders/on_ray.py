"""A dense encoder whose documents are embedded by the workers of a Ray cluster.

The driver, this process, loads the model once on its CPU: for questions, for the tokenizer, and to know what the
workers must be. They load it themselves from the recipe, each from its own machine's files, and their identity and
canaries are compared with the driver's before they embed anything. Texts go to them with their token ids.

Nothing is stored by the workers: the driver writes what they return as in any sync, so that a worker, or the driver,
can be killed at any point. `ray_pipeline` has what was found about Ray Data and how it is used.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tarragon import canaries
from tarragon.encoders import ray_cluster
from tarragon.encoders.loading import load_encoder, parse_model, require_one_space
from tarragon.encoders.several import WINDOWS_ON_CUDA
from tarragon.encoders.spreading import blocks_of, gathered
from tarragon.errors import EncodingFailed, InvalidRecipe, ModelUnavailable
from tarragon.protocols import Embeddings, EncoderInput, Tokenizer
from tarragon.recipe import IndexRecipe

if TYPE_CHECKING:
    from tarragon.encoders.ray_workers import Answer, Order

FEW_TEXTS = 32
"""So many are embedded by the driver itself as long as no worker has been started: that takes longer."""

STARTS = 1
"""Conductors that may be lost in a row, without an answer between, before it is an error."""


SILENCE = 60
"""Seconds without an answer after which the log says so. A cluster that grows takes minutes to have room."""

_log = logging.getLogger(__name__)


class RayEncoder:
    """The recipe's model on a Ray cluster, as a `DenseEncoder`. Close it after use, or use it in a ``with``.

    Args:
        address: ``local``, ``auto``, ``ray://host:10001`` or ``host:6379``: see `ray_cluster.connect`.
        recipe: Names the model, its document prompt and dimensions. Give the same to `Index.open`.
        device: Of the workers: ``cpu`` or ``cuda``. None: CUDA where the cluster has a GPU.
        workers: How many. None: one for each GPU, or else for every four processors.

    Attributes:
        texts_by_worker: Texts whose vectors were used, by host and process.

    Raises:
        MissingDependency: Ray is not installed.
        ModelUnavailable: There is no cluster at the address.
        InvalidInput: The cluster has no room for so many workers.
        InvalidRecipe: The model makes several spaces in one pass, or runs on a server already.
    """

    def __init__(
        self,
        address: str = ray_cluster.RUNNING,
        recipe: IndexRecipe | None = None,
        *,
        device: str | None = None,
        workers: int | None = None,
    ) -> None:
        self._recipe = recipe or IndexRecipe()
        _require_loadable(self._recipe)
        self._calling = threading.Lock()
        self._pipeline: _Pipeline | None = None
        self.texts_by_worker: Counter[tuple[str, int]] = Counter()
        self._is_connected = ray_cluster.connect(address)
        try:
            self._pool, self._device = ray_cluster.room(workers, device)
            self._local = load_encoder(self._recipe, "cpu")
            self._identity = dict(self._local.identity)  # of the files that were loaded, whatever they become
        except BaseException:
            self.close()
            raise
        self.windows = self._pool.workers * (WINDOWS_ON_CUDA if self._pool.gpus else 1)

    @property
    def name(self) -> str:
        """See `tarragon.protocols.Model`."""
        return self._local.name

    @property
    def device(self) -> str:
        """See `tarragon.protocols.Model`."""
        return f"{self._device} of {self._pool.workers} Ray workers"

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.Model`."""
        return self._identity

    @property
    def dimensions(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._local.dimensions

    @property
    def max_tokens(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._local.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._local.tokenizer

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. By the driver."""
        return self._local.encode_queries(texts, prompt)

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. One call at a time; a few texts by the driver.

        Raises:
            EncoderDrift: A worker has another model.
            EncodingFailed: Workers were lost again and again over these texts.
            ModelUnavailable: They were before any has answered.
        """
        with self._calling:
            if not inputs or (self._pipeline is None and len(inputs) <= FEW_TEXTS):
                return self._local.encode_documents(inputs)
            blocks = blocks_of(inputs, self._pool.workers)
            payloads = [pickle.dumps([inputs[row] for row in rows]) for rows in blocks]
            answers = self._started().run(payloads)
            parts = ((blocks[place], self._used(answer, len(blocks[place]))) for place, answer in answers)
            return gathered(parts, len(inputs), self.dimensions)

    def close(self) -> None:
        """End the workers, and the connection if this encoder made it."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
        if self._is_connected:
            ray_cluster.disconnect()
            self._is_connected = False

    def __enter__(self) -> RayEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> _Pipeline:
        if self._pipeline is None:
            from tarragon.encoders.ray_workers import Order, installed_version

            probes = canaries.pack(canaries.run(self._local))
            order = Order(self._recipe.to_dict(), self._device, self._identity, probes, installed_version())
            self._pipeline = _Pipeline(order, self._pool)
        return self._pipeline

    def _used(self, answer: Answer, texts: int) -> Embeddings:
        if answer.error is not None:
            raise answer.error
        assert answer.embeddings is not None  # an answer has one or the other
        self.texts_by_worker[answer.worker] += texts
        return answer.embeddings


class _Pipeline:
    """The driver's end of a conductor, which is replaced when it is lost."""

    def __init__(self, order: Order, pool: ray_cluster.Pool) -> None:
        self._order = order
        self._pool = pool
        self._numbers = itertools.count()
        self._conductor: Any = None
        self._has_answered = False
        self._heard = 0.0

    def run(self, payloads: Sequence[bytes]) -> Iterator[tuple[int, Answer]]:
        """The answer to each block by its place in the call, as they come: each once."""
        import ray

        waiting = dict(zip(self._numbers, payloads, strict=False))
        places = {number: place for place, number in enumerate(waiting)}
        lost = 0
        self._heard = time.monotonic()
        try:
            self._submit(waiting)
            while waiting:
                try:
                    found = ray.get(self._conductor.answers.remote())
                except (ray.exceptions.RayError, RuntimeError) as error:
                    lost += 1
                    self._restart(waiting, error if lost > STARTS else None)
                    continue
                self._note(bool(found))
                for number, answer in found:
                    if waiting.pop(number, None) is not None:  # else an earlier, interrupted call's
                        lost, self._has_answered = 0, True
                        yield places[number], pickle.loads(answer)  # noqa: S301 # from our own workers
        finally:
            if waiting and self._conductor is not None:
                self._conductor.forget.remote(list(waiting))

    def close(self) -> None:
        import ray

        if self._conductor is not None and ray.is_initialized():
            ray.kill(self._conductor)  # and with it the pool, which it owns
        self._conductor = None

    def _note(self, answered: bool) -> None:
        """Say in the log that nothing has come for long."""
        now = time.monotonic()
        if not answered and now - self._heard < SILENCE:
            return
        if not answered:
            _log.warning(
                "no Ray worker has answered for %d s: they load their model or are at work, or the cluster has no room "
                "for %d of them (ray status); still waiting",
                SILENCE,
                self._pool.workers,
            )
        self._heard = now

    def _submit(self, waiting: Mapping[int, bytes]) -> None:
        import ray

        from tarragon.encoders.ray_pipeline import Conductor

        if self._conductor is None:
            actor = ray.remote(num_cpus=0, max_concurrency=8)(Conductor)
            self._conductor = actor.remote(self._order, self._pool)
        self._conductor.submit.remote(dict(waiting))

    def _restart(self, waiting: Mapping[int, bytes], error: Exception | None) -> None:
        """Another conductor for what is not answered; or give up."""
        self.close()
        if error is None:
            self._submit(waiting)
            return
        told = f"the Ray workers were lost {STARTS + 1} times in a row: {_last_line(error)}"
        if self._has_answered:  # so it is these texts, and the caller may try fewer of them
            raise EncodingFailed(f"{told}. Look at their memory and logs", blocks=len(waiting)) from error
        raise ModelUnavailable(
            f"{told}. Install tarragon[ray] and the model's library in the same versions on all machines of the "
            "cluster, and look at their memory and logs"
        ) from error


def _require_loadable(recipe: IndexRecipe) -> None:
    spec = parse_model(recipe.model)
    require_one_space(spec, "a Ray cluster")
    if spec.runner in ("openai", "tei"):
        raise InvalidRecipe(f"{recipe.model} runs on its own server already; sync without Ray", model=recipe.model)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__

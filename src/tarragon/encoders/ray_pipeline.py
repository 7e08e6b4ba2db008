"""The pipeline on a Ray cluster, and the conductor, which runs it with Ray Data for a driver.

    driver ──blocks of texts──▸ conductor ─▸ reader ─▸ pool of workers ─▸ conductor ──vectors──▸ driver

Found in Ray 2.60, and why it is built so:

- ``map_batches`` with a class starts its actors with an execution and ends them with it. A sync asks window after
  window; an execution each would load every model anew for every window. So one execution lasts: its source is a
  reader that waits for the next block (`_Reader`), and the pool holds the models until the driver is done.
- An actor that is killed is started again (``max_restarts`` -1), and Ray repeats its tasks on it: no block is lost.
  Tasks that ended may be repeated too, so that an answer can come twice: blocks have numbers, the second is dropped.
- A reader that is killed is run again from its beginning, and what it yields again is not handed on. It must yield the
  same number of blocks in the same order: the conductor remembers which number had which place.
- The order of answers is that of completion; preserving it would keep workers waiting. Numbers put them in order.
- A block stays its own task only if blocks are not joined: ``target_max_block_size`` 1 hands each row on at once.
- Ray Data does not run through Ray's client (``ray://``), and changes settings of the process that it runs in. So it
  runs in an actor of its own; the driver knows only that, by calls that both kinds of connection have.
- A conductor that is lost takes its pipeline with it. The driver has kept what is not answered, and starts another one.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from tarragon.encoders.ray_cluster import Pool
from tarragon.encoders.ray_workers import Order, Worker

RETRIES = 2
"""Times that a block is repeated whose worker died. Without an end, a text that kills workers would do so for ever."""

DEATHS_AT_START = 3
"""Workers in a row that may die while they load their model before it is called impossible."""

PATIENCE = 1.0
"""Seconds that a call to the conductor waits for something to tell, at most."""


class Conductor:
    """Runs the pipeline, in an actor of its own. Several of its methods are called at the same time.

    Args:
        order: For the workers.
        pool: How many of them.
    """

    def __init__(self, order: Order, pool: Pool) -> None:
        self._changed = threading.Condition()
        self._places: list[int] = []  # the number of each block, in the order in which they came
        self._blocks: dict[int, bytes] = {}  # those without an answer
        self._answers: list[tuple[int, bytes]] = []
        self._is_over = False
        self._failure = ""
        myself = ray.get_runtime_context().current_actor
        self._thread = threading.Thread(target=self._run, args=(myself, order, pool), daemon=True)
        self._thread.start()

    def submit(self, blocks: Mapping[int, bytes]) -> None:
        """Take these blocks, by number, in this order."""
        with self._changed:
            self._blocks.update(blocks)
            self._places.extend(blocks)
            self._changed.notify_all()

    def forget(self, numbers: Iterable[int]) -> None:
        """Nobody waits for these any more: what no worker has begun is left."""
        with self._changed:
            for number in numbers:
                self._blocks.pop(number, None)

    def answers(self) -> list[tuple[int, bytes]]:
        """What has come since, by number; after a while nothing. Raises `RuntimeError` if the pipeline has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._answers or self._failure, PATIENCE)
            if self._failure and not self._answers:
                raise RuntimeError(self._failure)
            found, self._answers = self._answers, []
            return found

    def block(self, place: int) -> tuple[int, bytes] | str:
        """For the reader: number and texts of the block at this place, no texts if it is not wanted any more.

        ``later`` if there is none yet, ``over`` if there will be none.
        """
        with self._changed:
            self._changed.wait_for(lambda: place < len(self._places) or self._is_over, PATIENCE)
            if place < len(self._places):
                number = self._places[place]
                return number, self._blocks.get(number, b"")
            return "over" if self._is_over else "later"

    def stop(self) -> None:
        """Let the pipeline end once its workers are done with what they have."""
        with self._changed:
            self._blocks.clear()
            self._is_over = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self, myself: Any, order: Order, pool: Pool) -> None:
        try:
            for batch in _pipeline(myself, order, pool):
                self._take(batch["number"].to_pylist(), batch["answer"].to_pylist())
            failure = "the pipeline has ended"
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _take(self, numbers: Sequence[int], answers: Sequence[bytes]) -> None:
        with self._changed:
            for number, answer in zip(numbers, answers, strict=True):
                if self._blocks.pop(number, None) is not None and answer:
                    self._answers.append((number, answer))
            self._changed.notify_all()


def _pipeline(conductor: Any, order: Order, pool: Pool) -> Iterator[pa.Table]:
    """Answers as they come, until the conductor says that no block will follow."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = context.target_min_block_size = 1
    context.max_consecutive_actor_init_deaths = DEATHS_AT_START
    warnings.simplefilter("ignore")  # nobody reads this process's stderr
    dataset = ray.data.read_datasource(_Reader(conductor), override_num_blocks=1, num_cpus=0).map_batches(
        Worker,
        fn_constructor_args=(order,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
    )
    found: Iterator[pa.Table] = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    return found


class _Reader(Datasource):  # type: ignore[misc] # Ray is not typed here
    """Blocks as the conductor has them: one task, which waits for the next."""

    def __init__(self, conductor: Any) -> None:
        super().__init__()
        self._conductor = conductor

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """One."""
        conductor = self._conductor
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: _blocks(conductor), unknown)]


def _blocks(conductor: Any) -> Iterator[pa.Table]:
    place = 0
    while (found := ray.get(conductor.block.remote(place))) != "over":
        if found != "later":
            number, block = found
            yield pa.table({"number": [number], "block": pa.array([block], pa.large_binary())})
            place += 1

"""The connection to a Ray cluster, and what it has room for."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from tarragon.errors import InvalidInput, MissingDependency, ModelUnavailable

LOCAL, RUNNING = "local", "auto"
"""A cluster of this process's own, on this machine; the one that runs here already."""

CPUS_EACH = 4
"""Processors of a worker without a GPU, where the cluster has them: more do not make one model much faster, and each
worker holds the model. Not measured."""

REACH_SECONDS = 5.0
"""Within which an address must take a connection, before Ray, which tries for half a minute, is asked."""


class Pool(NamedTuple):
    """How many workers, and what each asks of the cluster.

    Attributes:
        workers: How many.
        cpus: Of each.
        gpus: Of each.
    """

    workers: int
    cpus: int
    gpus: int


def connect(address: str) -> bool:
    """Connect this process to a cluster; whether that was needed. A connection that there is already is used.

    Args:
        address: ``local`` starts one on this machine, which ends with this process; ``auto`` is the one that runs on
            this machine (or that RAY_ADDRESS names); ``ray://host:10001`` and ``host:6379`` are others.

    Raises:
        MissingDependency: Ray is not installed.
        ModelUnavailable: There is none at the address.
    """
    if find_spec("ray") is None or find_spec("ray.data") is None or find_spec("pyarrow") is None:
        raise MissingDependency("spreading over a cluster needs Ray Data: pip install 'tarragon[ray]'", module="ray")
    import ray

    if ray.is_initialized():
        return False
    _require_listener(address)
    local = {"include_dashboard": False, "num_cpus": None} if address == LOCAL else {}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **local)
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
        raise _unreachable(
            address, str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        ) from error
    return True


def disconnect() -> None:
    """Undo `connect`; a cluster that was started by it ends."""
    import ray

    ray.shutdown()


def room(workers: int | None, device: str | None) -> tuple[Pool, str]:
    """The workers to start on the connected cluster, and the device of each.

    Raises:
        InvalidInput: See `pool_of`.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return pool_of(nodes, workers, device)


def pool_of(nodes: Sequence[Mapping[str, float]], workers: int | None, device: str | None) -> tuple[Pool, str]:
    """How many workers these nodes have room for, what each asks for, and its device.

    By default a worker for each GPU; where there is none, one for every four processors of a node.

    Args:
        nodes: Resources of each: ``CPU``, ``GPU``.
        workers: As many, each with as many processors as then fit. None: as above.
        device: ``cpu`` or ``cuda``. None: CUDA where there is a GPU.

    Raises:
        InvalidInput: There is not that much room; or the device is another.
    """
    if device not in (None, "cpu", "cuda"):
        raise InvalidInput(f"device={device!r}: on a Ray cluster it is cpu or cuda; Ray gives each worker its GPU")
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers={workers} must be at least 1", workers=workers)
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" or (device is None and gpus):
        _require_room(workers or 1, gpus, "GPUs")
        has_cpus = all(node.get("CPU", 0) >= node["GPU"] for node in nodes if node.get("GPU"))
        return Pool(workers or gpus, int(has_cpus), 1), "cuda"
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    most = max(cpus, default=0)
    _require_room(workers or 1, sum(cpus), "processors")
    if workers is None:
        each = min(CPUS_EACH, most)
        return Pool(sum(count // each for count in cpus), each, 0), "cpu"
    each = next(each for each in range(most, 0, -1) if sum(count // each for count in cpus) >= workers)
    return Pool(workers, each, 0), "cpu"


def _require_room(workers: int, there: int, what: str) -> None:
    if workers > there:
        raise InvalidInput(
            f"{workers} workers need as many {what}, and the Ray cluster has {there}; ask for fewer, or add nodes",
            workers=workers,
        )


def _require_listener(address: str) -> None:
    """Make sure that somebody listens at a host and port. Raises `ModelUnavailable`."""
    found = re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/]+):(\d+)", address)
    if found is None:
        if address not in (LOCAL, RUNNING):
            raise InvalidInput(
                f"{address!r} is no address of a Ray cluster; write local, auto, ray://host:10001 or host:6379",
                address=address,
            )
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _told(error: Exception) -> str:
    """First and last line: of what went wrong on the other side there is a traceback between."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(dict.fromkeys((lines[0], lines[-1]))).rstrip(".")


def _unreachable(address: str, reason: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"no Ray cluster answers at {address!r}: {reason}. Start one (ray start --head), or write local for one on "
        "this machine; a cluster that checks tokens wants RAY_AUTH_MODE=token here",
        address=address,
    )

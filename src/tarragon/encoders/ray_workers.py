"""A worker of a Ray cluster: it loads the model, makes sure that it is the driver's, and embeds blocks of texts.

Nothing here knows of Ray; `ray_pipeline` hands the blocks over.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

import pyarrow as pa

from tarragon import canaries
from tarragon.encoders.loading import load_encoder
from tarragon.encoders.several import differing_names
from tarragon.errors import EncoderDrift, ModelUnavailable, TarragonError
from tarragon.identity import fingerprint
from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput
from tarragon.recipe import IndexRecipe


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker loads, and what it must be.

    Attributes:
        recipe: Names the model, as `IndexRecipe.to_dict` writes it.
        device: Where it runs on the worker.
        identity: Of the driver's encoder.
        canaries: Of the driver's encoder, packed.
        version: The driver's of this library.
    """

    recipe: Mapping[str, Any]
    device: str
    identity: Mapping[str, str]
    canaries: str
    version: str


class Answer(NamedTuple):
    """What a worker made of a block.

    Attributes:
        worker: Host and process.
        embeddings: In the order of the block; None if it could not.
        error: Why.
    """

    worker: tuple[str, int]
    embeddings: Embeddings | None
    error: TarragonError | None = None


class Worker:
    """Holds a model, and embeds blocks with it if it is the driver's.

    Raises nothing: Ray would start it again. What is wrong is its answer to each block.

    Args:
        order: What to load.
    """

    def __init__(self, order: Order) -> None:
        self._name = socket.gethostname(), os.getpid()
        self._error: TarragonError | None = None
        try:
            self._encoder: DenseEncoder = load_encoder(IndexRecipe.from_dict(order.recipe), order.device)
            require_same_model(self._encoder, order, self._name[0])
        except Exception as error:
            self._error = self._told(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The answers to a batch of blocks: columns ``number`` and ``block`` → ``number`` and ``answer``, pickled."""
        answers = [pickle.dumps(self.answer(block)) if block else b"" for block in batch["block"].to_pylist()]
        return pa.table({"number": batch["number"], "answer": pa.array(answers, pa.large_binary())})

    def answer(self, block: bytes) -> Answer:
        """The vectors of a pickled list of `EncoderInput`, or what went wrong."""
        if self._error is not None:
            return Answer(self._name, None, self._error)
        try:
            inputs: list[EncoderInput] = pickle.loads(block)  # noqa: S301 # from the driver, as all that Ray runs
            return Answer(self._name, self._encoder.encode_documents(inputs))
        except Exception as error:
            return Answer(self._name, None, self._told(error))

    def _told(self, error: Exception) -> TarragonError:
        if isinstance(error, TarragonError):
            return error
        host, process = self._name
        return ModelUnavailable(
            f"the Ray worker on {host} (process {process}) failed: {type(error).__name__}: {error}. The texts of its "
            "block are not indexed; mend it and sync again",
            host=host,
        )


def installed_version() -> str:
    """Of this library, in this process's environment."""
    return metadata.version("tarragon")


def require_same_model(encoder: DenseEncoder, order: Order, host: str) -> None:
    """Make sure that a worker makes the driver's vectors.

    Raises:
        EncoderDrift: It does not; the message says what differs.
    """
    if order.version != (here := installed_version()):
        raise EncoderDrift(
            f"the Ray worker on {host} runs tarragon {here}, and the driver {order.version}: "
            "install the same version on all machines of the cluster",
            host=host,
        )
    identity = dict(encoder.identity)
    if fingerprint(identity) != fingerprint(order.identity):
        differing = differing_names(order.identity, identity)
        raise EncoderDrift(
            f"the Ray worker on {host} has another model as {encoder.name} ({fingerprint(identity)[:12]}) than the "
            f"driver ({fingerprint(order.identity)[:12]}); they differ in {', '.join(differing)}. Put the same files "
            "on all machines; none of its vectors was used",
            host=host,
            differing=differing,
        )
    stored = canaries.unpack(order.canaries)
    verdict = None if stored is None else canaries.judge(stored, canaries.run(encoder))
    if verdict is not None and verdict.verdict == "different":
        raise EncoderDrift(
            f"the Ray worker on {host} declares the driver's model and makes other vectors: {verdict.sentence()}. Its "
            "runtime differs (library versions, hardware); none of its vectors was used",
            host=host,
            **verdict.to_dict(),
        )

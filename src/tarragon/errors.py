"""Every error Tarragon raises on purpose, as one tree.

TarragonError
├── InvalidInput (ValueError)         the caller's value cannot be used
│   ├── InvalidDocument               a document's id, text or metadata
│   ├── InvalidFilter                 a filter that cannot be compiled; never ignored
│   ├── InvalidRecipe                 a setting outside its range
│   ├── InvalidGolden                 questions with judgements: a file or a value that is malformed
│   └── InvalidRun                    a run to be scored: a file or a value that is malformed
├── IndexProblem                      the index as a whole
│   ├── IndexNotFound (FileNotFoundError)
│   ├── NotAnIndex                    the path holds something else
│   ├── IndexLocked (BlockingIOError) another process has it open
│   ├── LeaseLost                     another writer took it over
│   ├── RecipeMismatch                it was built under another contract
│   ├── PlanOutdated                  what a saved plan was made from has changed
│   └── NotReady                      a version cannot serve yet
├── SourceProblem                     where documents come from
│   ├── SourceNotFound (FileNotFoundError)
│   ├── UnreadableDocument            one document; the others go on
│   ├── EmptySource                   nothing there, so a sync would delete everything
│   └── TooManyDeletions              more than ``max_delete`` allows
├── ModelProblem                      the encoder
│   ├── ModelNotFound
│   ├── DeviceUnavailable (RuntimeError)
│   ├── EncoderDrift                  the same model under the same name makes other vectors than before
│   ├── EncodingFailed (RuntimeError)
│   ├── AdapterRefused                no bridge between two spaces that is good enough
│   ├── ModelUnavailable (ConnectionError)  a model behind HTTP cannot be reached or refuses
│   ├── RerankingFailed (RuntimeError)      a reranker cannot score
│   └── AnsweringFailed (RuntimeError)      a language model says nothing that can be used
├── StorageProblem                    the engine or the disk
│   ├── DiskFull (OSError)
│   └── ServerUnavailable (ConnectionError)
└── MissingDependency (ImportError)   an extra that is not installed

The classes follow what a caller can do about it. Each message says what went wrong, with which value, and what to do
next; `data` holds the values.
"""

from __future__ import annotations


class TarragonError(Exception):
    """Root of the tree.

    Attributes:
        data: The values that the message speaks of, by name, so that a program need not parse it.
    """

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.data = data


class InvalidInput(TarragonError, ValueError):
    """A value the caller gave cannot be used."""


class InvalidDocument(InvalidInput):
    """A document's id, text or metadata cannot be stored."""


class InvalidFilter(InvalidInput):
    """A filter cannot be compiled. Filters fail closed: an unknown operator never matches everything."""


class InvalidRecipe(InvalidInput):
    """A setting is outside its range."""


class InvalidGolden(InvalidInput):
    """Questions with judgements are malformed or missing. From a file, `data` has its ``path`` and ``line``."""


class InvalidRun(InvalidInput):
    """A run, the answers of a configuration, is malformed. From a file, `data` has its ``path`` and ``line``."""


class IndexProblem(TarragonError):
    """The index as a whole cannot be used as asked."""


class IndexNotFound(IndexProblem, FileNotFoundError):
    """There is no index at this path."""


class NotAnIndex(IndexProblem):
    """The path exists and holds something other than an index."""


class IndexLocked(IndexProblem, BlockingIOError):
    """Another process has the index open."""


class LeaseLost(IndexProblem):
    """Another writer took the index over, so that this one must not write any more. What it committed stays."""


class RecipeMismatch(IndexProblem):
    """The index was built under another contract than the one asked for."""


class PlanOutdated(IndexProblem):
    """The index or the source has moved on since a plan was made; nothing was written."""


class NotReady(IndexProblem):
    """A version cannot serve: it is not complete, or answers too differently."""


class SourceProblem(TarragonError):
    """Documents cannot be read from where they should come from."""


class SourceNotFound(SourceProblem, FileNotFoundError):
    """The source does not exist."""


class UnreadableDocument(SourceProblem):
    """One document cannot be read or decoded. A sync counts it and goes on with the others."""


class EmptySource(SourceProblem):
    """The source holds no document, so that a sync would delete all that is indexed."""


class TooManyDeletions(SourceProblem):
    """A sync would delete a larger share of the index than ``max_delete`` allows."""


class ModelProblem(TarragonError):
    """The encoder cannot be loaded or used."""


class ModelNotFound(ModelProblem):
    """No model is named, or the named one cannot be loaded."""


class DeviceUnavailable(ModelProblem, RuntimeError):
    """The device that was asked for is not on this machine."""


class EncoderDrift(ModelProblem):
    """The model declares the same identity as the index's and makes other vectors: its runtime has drifted."""


class EncodingFailed(ModelProblem, RuntimeError):
    """The encoder returned something that is no embedding: wrong shape, NaN or infinity."""


class AdapterRefused(ModelProblem):
    """No linear map leads well enough from one model's vectors to another's: upgrade instead."""


class ModelUnavailable(ModelProblem, ConnectionError):
    """A model behind HTTP cannot be reached, is too busy, or refuses, also after several tries."""


class RerankingFailed(ModelProblem, RuntimeError):
    """A reranker gave no scores. The ranking before it still stands."""


class AnsweringFailed(ModelProblem, RuntimeError):
    """A language model gave no answer that can be used."""


class StorageProblem(TarragonError):
    """The engine or the disk refused an operation."""


class DiskFull(StorageProblem, OSError):
    """There is not enough room on the disk. What was committed before stays and can be read."""


class ServerUnavailable(StorageProblem, ConnectionError):
    """The server cannot be reached or is too busy, also after several tries. The same call can be made again."""


class MissingDependency(TarragonError, ImportError):
    """A library behind an extra is not installed. The message carries the pip command."""

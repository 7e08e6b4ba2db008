"""Several encoders as one: how texts are spread, that nothing depends on it, and what happens when one fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_server import running

from tarragon import Document, Index, IndexRecipe
from tarragon.encoders.devices import first_device, listed_devices
from tarragon.encoders.loading import load_encoder
from tarragon.encoders.several import SeveralEncoders
from tarragon.encoders.spreading import LEAST_TOKENS, blocks_of
from tarragon.errors import DeviceUnavailable, EncodingFailed, InvalidInput, InvalidRecipe
from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput
from tarragon.syncing import MOST_WINDOWS, WINDOW_CHARACTERS
from tarragon.testing import WordEncoder, check_encoder
from tarragon.types import IntArray


def ids(count: int) -> IntArray:
    return np.zeros(count, dtype=np.int32)


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 5))
def test_every_text_is_in_one_block_and_the_longest_come_first(lengths: list[int], encoders: int) -> None:
    blocks = blocks_of([EncoderInput("", ids(length)) for length in lengths], encoders)
    order = [row for block in blocks for row in block.tolist()]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[row] or 1 for row in order] == sorted((length or 1 for length in lengths), reverse=True)
    total = sum(max(1, length) for length in lengths)
    target = max(LEAST_TOKENS, total // (8 * encoders))
    assert all(sum(lengths[row] for row in block) < target + 600 for block in blocks)


def test_there_is_a_block_for_each_encoder_several_times_over() -> None:
    blocks = blocks_of([EncoderInput("word " * 100) for _ in range(2_000)], 3)
    assert 3 * 8 <= len(blocks) <= 3 * 8 + 1
    assert len({len(block) for block in blocks[:-1]}) <= 2


@pytest.mark.parametrize(
    ("device", "expected"),
    [(None, (None,)), ("cpu", ("cpu",)), ("cuda:0, cuda:1", ("cuda:0", "cuda:1")), ("cpu,cpu", ("cpu", "cpu"))],
)
def test_a_list_of_devices_is_read(device: str | None, expected: tuple[str | None, ...]) -> None:
    assert listed_devices(device) == expected
    assert first_device(device) == expected[0]


@pytest.mark.parametrize("device", ["", "cpu,", "all,cpu"])
def test_a_list_that_cannot_be_read_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match="cuda:0,cuda:1, or all"):
        listed_devices(device)


def test_all_is_every_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert listed_devices("all") == ("cuda:0", "cuda:1", "cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="none here"):
        listed_devices("all")


# --- with the real model ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def several() -> DenseEncoder:
    return load_encoder(IndexRecipe(), "cpu,cpu")


TEXTS = [f"Paragraph {n}: " + "rotate the signing key before the release. " * (1 + n % 17) for n in range(40)]


def test_two_replicas_make_what_one_makes(several: DenseEncoder, encoder: DenseEncoder) -> None:
    assert isinstance(several, SeveralEncoders)
    assert len(blocks_of([EncoderInput(text) for text in TEXTS], 2)) > 2
    tokens = encoder.tokenizer.tokenize(TEXTS)
    inputs = [
        EncoderInput(text, row if n % 2 else None) for n, (text, row) in enumerate(zip(TEXTS, tokens, strict=True))
    ]
    one, two = encoder.encode_documents(inputs), several.encode_documents(inputs)
    assert (one.tokens, one.truncated) == (two.tokens, two.truncated)
    assert (one.vectors * two.vectors).sum(axis=1).min() >= 0.99999
    questions = [encoder.encode_queries(TEXTS[:3]), several.encode_queries(TEXTS[:3])]
    assert (questions[0].vectors * questions[1].vectors).sum(axis=1).min() >= 0.99999
    assert dict(several.identity) == dict(encoder.identity)
    assert (several.name, several.dimensions, several.max_tokens) == (
        encoder.name,
        encoder.dimensions,
        encoder.max_tokens,
    )
    assert several.device == "cpu,cpu"
    check_encoder(several)


def test_a_model_of_several_spaces_is_not_spread() -> None:
    with pytest.raises(InvalidRecipe, match="name one device"):
        load_encoder(IndexRecipe(model="joint:somewhere"), "cpu,cpu")


def test_a_model_on_a_server_is_loaded_once_whatever_the_device() -> None:
    with running() as (_, url):
        encoder = load_encoder(IndexRecipe(model=f"openai:words@{url}/v1"), "cuda:0,cuda:1")
    assert not isinstance(encoder, SeveralEncoders)


# --- with encoders of words -------------------------------------------------------------------------------------------
class Told(WordEncoder):
    """Waits until all of its group are at work, so that each gets some; fails where it is told to."""

    def __init__(self, barrier: threading.Barrier | None = None, *, fails: bool = False) -> None:
        super().__init__()
        self.barrier = barrier
        self.fails = fails
        self.calls = 0
        self.queries = 0

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        self.calls += 1
        if self.barrier is not None and self.calls == 1:
            self.barrier.wait(30)
        if self.fails:
            raise EncodingFailed("made up")
        return super().encode_documents(inputs)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        self.queries += 1
        return super().encode_queries(texts, prompt)


MANY = [EncoderInput(f"word{n} " * 300) for n in range(60)]


def test_all_are_at_work_at_the_same_time_and_rows_come_back_in_order() -> None:
    barrier = threading.Barrier(3)  # only passed when three threads wait in it
    encoders = [Told(barrier) for _ in range(3)]
    found = SeveralEncoders(encoders).encode_documents(MANY)
    expected = WordEncoder().encode_documents(MANY)
    assert np.array_equal(found.vectors, expected.vectors)
    assert (found.tokens, found.truncated) == (expected.tokens, expected.truncated)
    assert sum(encoder.documents_encoded for encoder in encoders) == len(MANY)
    assert all(encoder.calls for encoder in encoders)


def test_an_error_of_one_is_raised_once_and_the_others_go_on_afterwards() -> None:
    good, bad = Told(threading.Barrier(2)), Told(fails=True)
    bad.barrier = good.barrier
    both = SeveralEncoders([good, bad])
    with pytest.raises(EncodingFailed, match="made up"):
        both.encode_documents(MANY)
    assert bad.calls == 1
    assert good.calls < len(blocks_of(MANY, 2))  # no further blocks were begun
    bad.fails = False
    assert np.array_equal(both.encode_documents(MANY).vectors, WordEncoder().encode_documents(MANY).vectors)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tarragon-device")]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_call_leaves_no_thread_and_can_be_repeated() -> None:
    class Interrupting(Told):
        def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
            found = super().encode_documents(inputs)
            if self.calls == 1 and self.fails is False and not interrupted:
                interrupted.append(True)
                signal.raise_signal(signal.SIGINT)  # Python gives it to the main thread
            return found

    interrupted: list[bool] = []
    both = SeveralEncoders([Interrupting(), Interrupting()])
    with pytest.raises(KeyboardInterrupt):
        both.encode_documents(MANY)
    assert interrupted
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tarragon-device")]
    assert np.array_equal(both.encode_documents(MANY).vectors, WordEncoder().encode_documents(MANY).vectors)


def test_questions_go_in_turn_to_who_has_the_least_to_do() -> None:
    encoders = [Told() for _ in range(3)]
    several = SeveralEncoders(encoders)
    for _ in range(6):
        several.encode_queries(["a question"])
    assert [encoder.queries for encoder in encoders] == [2, 2, 2]
    entered, leave = threading.Event(), threading.Event()

    class Slow(Told):
        def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
            entered.set()
            leave.wait(30)
            return super().encode_documents(inputs)

    slow, free = Slow(), Told()
    several = SeveralEncoders([slow, free])
    thread = threading.Thread(target=several.encode_documents, args=(MANY[:1],))
    thread.start()
    entered.wait(30)
    for _ in range(4):
        several.encode_queries(["a question"])
    leave.set()
    thread.join()
    assert (slow.queries, free.queries) == (0, 4)


def test_encoders_of_different_models_are_refused() -> None:
    with pytest.raises(InvalidInput, match="they differ in salt"):
        SeveralEncoders([WordEncoder(), WordEncoder(salt="other")])
    with pytest.raises(InvalidInput, match="at least one"):
        SeveralEncoders([])


@pytest.mark.parametrize(("windows", "calls"), [(1, 3), (2, 2), (1_000, 1)])
def test_a_sync_gathers_as_many_windows_as_an_encoder_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: int, calls: int
) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1_000)
    encoder = Told()
    encoder.windows = windows  # type: ignore[attr-defined]
    documents = [Document(f"d{n}", f"{n} " + "text and more " * 36) for n in range(6)]
    with Index.open(tmp_path / "i.tarragon", encoder=encoder, recipe=IndexRecipe(language="neutral")) as index:
        seen = []
        index.sync(documents, progress=lambda told: seen.append(told.chunks_embedded))
    assert len([count for count in dict.fromkeys(seen) if count]) == calls


def test_the_largest_window_is_bounded() -> None:
    assert MOST_WINDOWS * WINDOW_CHARACTERS == 16 << 20

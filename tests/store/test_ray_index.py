"""Syncing through a Ray cluster of two workers on this machine: nothing is other than in one process, nothing is lost.

One cluster, and one pool of workers with the real model, for the whole file: starting them is what takes time.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wire import QdrantStub

from tarragon import Document, Index, IndexRecipe, SearchRecipe, canaries
from tarragon.cli import main
from tarragon.encoders import on_ray, spreading
from tarragon.encoders.on_ray import RayEncoder
from tarragon.encoders.ray_cluster import Pool, connect, pool_of
from tarragon.encoders.ray_workers import Order, Worker, installed_version, require_same_model
from tarragon.encoders.static import StaticEncoder, save_word_vectors
from tarragon.errors import EncoderDrift, InvalidInput, InvalidRecipe, MissingDependency, ModelUnavailable
from tarragon.protocols import DenseEncoder, EncoderInput

TOPICS = ("signing keys", "nightly backups", "the engineer on call", "cold storage", "release notes", "access tokens")
DOCUMENTS = [
    Document(
        f"d{n}.md",
        f"# Page {n}\n\nParagraph {n} is about {TOPICS[n % 6]}, and names item {n * 37}.\n\n"
        f"## More of {n}\n\n" + f"Rule {n % 11} of {TOPICS[n % 5]} holds for item {n}. " * (1 + n % 4),
        {"number": n},
    )
    for n in range(36)
]
QUERIES = ("who answers pages", "rule 7 of cold storage", "restore a backup", "item 370")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two processors, little memory, no dashboard, nothing told to Ray's makers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def single(encoder: DenseEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """The same documents, embedded by this process."""
    with Index.open(tmp_path_factory.mktemp("single") / "i.tarragon", encoder=encoder) as index:
        index.sync(DOCUMENTS)
        yield index


@pytest.fixture(scope="module")
def on_workers() -> Iterator[RayEncoder]:
    with RayEncoder("auto", workers=2) as made:
        yield made


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "LEAST_TOKENS", 128)


def contents(index: Index) -> tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]:
    """Records of documents, payloads and vectors of chunks, as they are stored."""
    with index._opened.reading() as version:
        ids = list(version.store.ids())
        records = {name: record._replace(hint=None) for name, record in version.ledger.documents().items()}
        return records, version.store.payloads(ids), version.store.vectors(ids)


def assert_same(index: Index, single: Index, search: SearchRecipe | None = None) -> None:
    one, other = contents(single), contents(index)
    assert other[0] == one[0]
    assert other[1] == one[1]
    assert other[2].keys() == one[2].keys()
    assert min(float(np.dot(one[2][id_], other[2][id_])) for id_ in one[2]) >= 0.99999
    for query in QUERIES:
        found, expected = (where.search(query, 10, recipe=search) for where in (index, single))
        assert [hit.chunk_id for hit in found] == [hit.chunk_id for hit in expected]


def at_the_first_answer(
    monkeypatch: pytest.MonkeyPatch, workers: RayEncoder, do: Callable[[tuple[str, int]], None]
) -> None:
    """Run something with the name of the worker, once, when the driver gets its first block."""
    used = workers._used
    done: list[bool] = []

    def hooked(answer: Any, texts: int) -> Any:
        if not done:
            done.append(True)
            do(answer.worker)
        return used(answer, texts)

    monkeypatch.setattr(workers, "_used", hooked)


def test_the_index_is_that_of_a_single_process(on_workers: RayEncoder, single: Index, tmp_path: Path) -> None:
    with Index.open(tmp_path / "i.tarragon", encoder=on_workers) as index:
        report = index.sync(DOCUMENTS)
        assert report.device == "cpu of 2 Ray workers"
        assert report.chunks_embedded == sum(on_workers.texts_by_worker.values()) == len(contents(single)[1])
        assert len(on_workers.texts_by_worker) == 2  # both had their part
        assert_same(index, single)
        assert index.sync(DOCUMENTS).chunks_embedded == 0
    assert on_workers.windows == 2


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_sync_is_completed_by_the_next(
    on_workers: RayEncoder, single: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1_200)
    with Index.open(tmp_path / "i.tarragon", encoder=on_workers) as index:
        is_armed = False

        def once_written(told: Any) -> None:
            nonlocal is_armed
            if told.chunks_embedded and not is_armed:
                is_armed = True
                at_the_first_answer(monkeypatch, on_workers, lambda worker: signal.raise_signal(signal.SIGINT))

        with pytest.raises(KeyboardInterrupt):
            index.sync(DOCUMENTS, progress=once_written)
        first = len(contents(index)[1])
        assert 0 < first < len(contents(single)[1])
        monkeypatch.undo()
        second = index.sync(DOCUMENTS)
        assert second.chunks_embedded == len(contents(single)[1]) - first
        assert_same(index, single)


def test_a_worker_killed_over_its_texts_loses_and_doubles_nothing(
    on_workers: RayEncoder, single: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped first, between two windows: so what it is given is unanswered for certain when it is killed."""
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1_200)
    victim = next(process for _, process in on_workers.texts_by_worker)
    before: list[int] = []

    def once_written(told: Any) -> None:
        if told.chunks_embedded and not before:
            before.append(told.chunks_embedded)
            on_workers.texts_by_worker.clear()
            os.kill(victim, signal.SIGSTOP)
            at_the_first_answer(monkeypatch, on_workers, lambda worker: os.kill(victim, signal.SIGKILL))

    with Index.open(tmp_path / "i.tarragon", encoder=on_workers) as index:
        report = index.sync(DOCUMENTS, progress=once_written)
        assert (report.documents_added, report.documents_failed) == (len(DOCUMENTS), 0)
        assert report.chunks_embedded == len(contents(single)[1])
        assert sum(on_workers.texts_by_worker.values()) == report.chunks_embedded - before[0]
        assert_same(index, single)
    processes = {process for _, process in on_workers.texts_by_worker}
    assert victim not in processes
    assert len(processes) == 2  # its texts were embedded by the one that took its place


def test_into_a_server(on_workers: RayEncoder, single: Index) -> None:
    with QdrantStub() as stub, Index.open(f"{stub.url}/handbook", encoder=on_workers) as index:
        report = index.sync(DOCUMENTS)
        assert report.chunks_embedded == len(contents(single)[1])
        assert_same(index, single, SearchRecipe(mode="dense"))  # local mode counts words in its own way


# --- with a small model -----------------------------------------------------------------------------------------------
@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A table of vectors, which loads at once."""
    random = np.random.default_rng(0)
    names = sorted({word.strip(".,#").lower() for document in DOCUMENTS for word in document.text.split()} - {""})
    table = "\n".join(f"{name} {' '.join(map(str, random.standard_normal(16).round(3)))}" for name in names)
    (tmp_path / "words.txt").write_text(table + "\n")
    save_word_vectors(tmp_path / "words.txt", tmp_path / "words")
    return tmp_path / "words"


def test_a_lost_conductor_is_replaced_and_workers_with_another_model_are_refused(
    on_workers: RayEncoder, words: Path, tmp_path: Path
) -> None:
    import ray

    on_workers.close()  # both processors are its workers' until then
    recipe = IndexRecipe(model=f"static:{words}")
    inputs = [EncoderInput(document.text) for document in DOCUMENTS]
    with RayEncoder("auto", recipe, workers=1) as encoder:
        expected = StaticEncoder(str(words)).encode_documents(inputs)
        assert len(inputs) > on_ray.FEW_TEXTS
        for _ in range(2):
            found = encoder.encode_documents(inputs)
            assert np.allclose(found.vectors, expected.vectors, atol=1e-6)
            assert (found.tokens, found.truncated) == (expected.tokens, expected.truncated)
            ray.kill(encoder._pipeline._conductor)  # type: ignore[union-attr]
        assert list(encoder.texts_by_worker.values()) == [len(inputs)] * 2  # the second time by a new worker
    with RayEncoder("auto", recipe, workers=1) as encoder, Index.open(tmp_path / "i", encoder=encoder) as index:
        other = words / "model.safetensors"
        other.write_bytes(other.read_bytes()[:-4] + b"\0\0\0\0")  # one number of the table
        with pytest.raises(EncoderDrift, match=r"another model .* they differ in"):
            index.sync(DOCUMENTS)
        assert not contents(index)[1]
        assert not encoder.texts_by_worker


def order(words: Path, **changed: Any) -> Order:
    encoder = StaticEncoder(str(words))
    values = {
        "recipe": IndexRecipe(model=f"static:{words}").to_dict(),
        "device": "cpu",
        "identity": dict(encoder.identity),
        "canaries": canaries.pack(canaries.run(encoder)),
        "version": installed_version(),
    }
    return Order(**(values | changed))


def test_what_ray_prints_does_not_mix_with_the_report(
    handbook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = RayEncoder.encode_documents

    def noisy(self: RayEncoder, inputs: Any) -> Any:
        print("a worker died")  # noqa: T201 # as Ray does
        return encode(self, inputs)

    monkeypatch.setattr(RayEncoder, "encode_documents", noisy)
    options = ["--model", f"static:{words}", "--json", "--ray", "auto", "--ray-workers", "1"]
    assert main(["sync", str(tmp_path / "i"), str(handbook), *options]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["documents_added"] == 3
    assert "a worker died" in said.err


def test_long_silence_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: Path) -> None:
    pipeline = on_ray._Pipeline(order(words), Pool(2, 1, 0))
    pipeline._heard = time.monotonic()
    pipeline._note(False)
    assert not caplog.records
    monkeypatch.setattr(on_ray, "SILENCE", 0)
    pipeline._note(True)
    assert not caplog.records
    pipeline._note(False)
    assert "still waiting" in caplog.text


def test_a_worker_answers_with_what_is_wrong(words: Path) -> None:
    require_same_model(StaticEncoder(str(words)), order(words), "here")
    probes = canaries.run(StaticEncoder(str(words)))
    for wrong, match in (
        ({"version": "0.0"}, "runs tarragon"),
        ({"canaries": canaries.pack(probes[:, ::-1].copy())}, "makes other vectors"),
        ({"identity": {"kind": "other"}}, "they differ in"),
    ):
        answer = Worker(order(words, **wrong)).answer(b"")
        assert answer.embeddings is None
        assert isinstance(answer.error, EncoderDrift)
        assert match in str(answer.error)
    missing = Worker(order(words, recipe=IndexRecipe(model="static:nowhere").to_dict())).answer(b"")
    assert "nowhere" in str(missing.error)
    broken = Worker(order(words)).answer(b"no pickle")
    assert isinstance(broken.error, ModelUnavailable)


# --- without a cluster ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nodes", "workers", "device", "pool"),
    [
        ([{"CPU": 2.0}], 2, None, (Pool(2, 1, 0), "cpu")),
        ([{"CPU": 2.0}], None, None, (Pool(1, 2, 0), "cpu")),
        ([{"CPU": 16.0}, {"CPU": 6.0}, {"memory": 1.0}], None, None, (Pool(5, 4, 0), "cpu")),
        ([{"CPU": 16.0}, {"CPU": 6.0}], 3, None, (Pool(3, 6, 0), "cpu")),
        ([{"CPU": 16.0, "GPU": 8.0}, {"CPU": 4.0}], None, None, (Pool(8, 1, 1), "cuda")),
        ([{"CPU": 16.0, "GPU": 8.0}], 3, "cuda", (Pool(3, 1, 1), "cuda")),
        ([{"CPU": 1.0, "GPU": 4.0}], None, None, (Pool(4, 0, 1), "cuda")),
        ([{"CPU": 8.0, "GPU": 4.0}], None, "cpu", (Pool(2, 4, 0), "cpu")),
    ],
)
def test_a_worker_for_each_gpu_or_for_some_processors(nodes: Any, workers: Any, device: Any, pool: Any) -> None:
    assert pool_of(nodes, workers, device) == pool


@pytest.mark.parametrize(
    ("workers", "device", "match"),
    [(3, None, "has 2"), (0, None, "at least 1"), (None, "cuda", "GPUs"), (None, "cuda:1", "cpu or cuda")],
)
def test_more_than_a_cluster_has_is_refused(workers: Any, device: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        pool_of([{"CPU": 2.0}], workers, device)
    with pytest.raises(InvalidInput, match="processors"):
        pool_of([], None, None)


def test_models_that_cannot_be_spread_are_refused() -> None:
    for model in ("openai:x", "tei:http://localhost:1", "joint:x"):
        with pytest.raises(InvalidRecipe):
            RayEncoder("auto", IndexRecipe(model=model))


def test_an_address_without_a_cluster_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    for address in ("ray://127.0.0.1:1", "127.0.0.1:1"):
        with pytest.raises(ModelUnavailable, match=r"no Ray cluster answers at .*Connection refused"):
            connect(address)
    with pytest.raises(InvalidInput, match="write local, auto"):
        connect("somewhere")


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.encoders.ray_cluster.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'tarragon\[ray\]'"):
        RayEncoder("auto")


def test_the_command_line_syncs_through_a_cluster(
    handbook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: Path
) -> None:
    index = tmp_path / "i.tarragon"
    arguments = ["sync", str(index), str(handbook), "--model", f"static:{words}", "--language", "neutral", "--json"]
    assert main([*arguments, "--ray", "auto", "--ray-workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["documents_added"], report["device"]) == (3, "cpu of 1 Ray workers")
    assert main(["sync", str(index), str(handbook), "--json"]) == 0  # the recipe names the model: no cluster is needed
    assert json.loads(capsys.readouterr().out)["documents_unchanged"] == 3
    assert main(["sync", str(index), str(handbook), "--json", "--ray", "auto", "--ray-workers", "9"]) == 1
    assert main(["sync", str(index), str(handbook), "--ray", "auto", "--watch"]) == 1
    assert report["chunks_embedded"] <= on_ray.FEW_TEXTS  # so no worker was started for them

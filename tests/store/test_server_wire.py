"""What goes over the wire to a server: the key, retries, timeouts, certificates. Real sockets, a made-up server."""

from __future__ import annotations

import logging
import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from homes import DIMENSIONS, contract
from wire import Fault, QdrantStub, Seen

from tarragon.errors import DiskFull, InvalidInput, NotAnIndex, ServerUnavailable, StorageProblem
from tarragon.protocols import Store, StoredChunk
from tarragon.store import server_client
from tarragon.store.server_catalog import ServerCatalog
from tarragon.store.server_client import ServerConnection
from tarragon.store.server_options import ServerOptions, parse_address

KEY = "secret-key-4711"
INSECURE = "ignore:Api key is used with an insecure connection"


@pytest.fixture
def stub() -> Iterator[QdrantStub]:
    with QdrantStub() as running:
        yield running


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(server_client, "sleep", waited.append)
    return waited


def connect(stub: QdrantStub, **options: Any) -> ServerConnection:
    address = parse_address(f"{stub.url}/handbook")
    return ServerConnection.open(address, ServerOptions(**options))


def chunk(number: int, text: str = "text") -> StoredChunk:
    return StoredChunk(UUID(int=number), np.ones(DIMENSIONS, dtype=np.float32), {"content": text})


@pytest.fixture
def store(stub: QdrantStub, pauses: list[float]) -> Iterator[Store]:
    catalog = ServerCatalog.open(f"{stub.url}/handbook")
    with catalog.writing():
        catalog.create(contract(), serve=True)
        with catalog.reading() as version:
            assert version is not None
            yield version.store
    catalog.close()


# --- the key ----------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings(INSECURE)
@pytest.mark.parametrize("from_environment", [False, True], ids=["argument", "environment"])
def test_the_key_is_sent_with_every_request(
    stub: QdrantStub, monkeypatch: pytest.MonkeyPatch, from_environment: bool
) -> None:
    if from_environment:
        monkeypatch.setenv("QDRANT_API_KEY", KEY)
    catalog = ServerCatalog.open(f"{stub.url}/handbook", api_key=None if from_environment else KEY)
    with catalog.writing():
        catalog.create(contract(), serve=True)
    catalog.close()
    assert len(stub.seen) > 5
    assert {seen.headers.get("api-key") for seen in stub.seen} == {KEY}
    assert not any(KEY in seen.path for seen in stub.seen)


@pytest.mark.filterwarnings(INSECURE)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(400, body=f'{{"status": {{"error": "bad key {KEY}"}}}}'.encode()),
        Fault(401, body=f"Invalid api-key {KEY}".encode()),
        Fault(403, body=f'{{"status": {{"error": "forbidden for {KEY}"}}}}'.encode()),
        Fault(503),
        Fault(reset=True),
        Fault(200, body=b"<html>not Qdrant</html>"),
    ],
    ids=lambda fault: str(fault.status or "reset"),
)
def test_the_key_is_shown_nowhere(
    stub: QdrantStub, pauses: list[float], caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    stub.fails = lambda seen: fault
    options = ServerOptions(api_key=KEY, retries=1)
    with caplog.at_level(logging.DEBUG), pytest.raises((StorageProblem, NotAnIndex)) as caught:
        ServerCatalog.open(f"{stub.url}/handbook", api_key=KEY, retries=1)
    assert stub.seen[0].headers["api-key"] == KEY
    connection = ServerConnection.open(parse_address(f"{stub.url}/handbook"), options)
    shown = [str(caught.value), repr(caught.value), repr(options), repr(connection), connection.location, caplog.text]
    shown.append(str(caught.value.data))
    assert not any(KEY in text for text in shown)
    own = "".join(traceback.format_exception_only(caught.value))
    assert KEY not in own
    connection.close()


def test_a_refused_key_says_what_to_do(stub: QdrantStub, pauses: list[float]) -> None:
    stub.fails = lambda seen: Fault(401, body=b"Must provide an API key")
    with pytest.raises(StorageProblem, match=r"refuses this key.*QDRANT_API_KEY"):
        ServerCatalog.open(f"{stub.url}/handbook")
    assert pauses == [], "asking again would not help"


# --- retries ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [Fault(503), Fault(502), Fault(504), Fault(429), Fault(reset=True)], ids=repr)
def test_a_busy_or_broken_answer_is_asked_for_again(
    stub: QdrantStub, pauses: list[float], store: Store, fault: Fault
) -> None:
    stub.faults = [fault] * 3
    store.upsert([chunk(1)])
    assert store.count() == 1
    assert len(pauses) == 3
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses)), "doubled, with jitter"


def test_an_answer_that_was_lost_changes_nothing_when_asked_for_again(
    stub: QdrantStub, pauses: list[float], store: Store
) -> None:
    lost = ["PUT", "POST"]

    def loses(seen: Seen) -> Fault | None:
        is_first = bool(lost) and seen.method == lost[0]
        return Fault(reset=True, after=True) if is_first and lost.pop(0) else None

    stub.fails = loses
    store.upsert([chunk(1, "one"), chunk(2)])
    store.set_payload({UUID(int=1): {"start": 3}})
    store.delete([UUID(int=2)])
    assert store.payloads([UUID(int=1), UUID(int=2)]) == {UUID(int=1): {"content": "one", "start": 3}}
    assert len(pauses) == 2


def test_every_single_lost_answer_of_a_first_sync_is_survived(stub: QdrantStub, pauses: list[float]) -> None:
    def first_sync(name: str) -> int:
        before = len(stub.seen)
        catalog = ServerCatalog.open(f"{stub.url}/{name}")
        with catalog.writing():
            catalog.create(contract(), serve=True)
            with catalog.reading() as version:
                assert version is not None
                version.store.upsert([chunk(1)])
                version.ledger.note("key", "value")
                assert version.ledger.notes() == {"key": "value"}
        assert catalog.serving() == "v1"
        catalog.close()
        return len(stub.seen) - before

    requests = first_sync("whole")
    for number in range(requests):
        countdown = [number]

        def loses(seen: Seen, countdown: list[int] = countdown) -> Fault | None:
            countdown[0] -= 1
            return Fault(reset=True, after=True) if countdown[0] == -1 else None

        stub.fails = loses
        assert requests < first_sync(f"lost{number}") <= requests + 2
    assert len(pauses) == requests


def test_the_server_may_say_when_to_come_back(stub: QdrantStub, pauses: list[float], store: Store) -> None:
    stub.faults = [Fault(429, {"Retry-After": "7"}), Fault(503, {"Retry-After": "11"})]
    assert store.count() == 0
    assert pauses == [7, 11]
    stub.faults = [Fault(429, {"Retry-After": "86400"})]
    with pytest.raises(ServerUnavailable):
        store.count()
    assert pauses == [7, 11], "nobody waits for a day"
    stub.faults = [Fault(429, {"Retry-After": "Fri, 20 Nov 2026 10:00:00 GMT"})]
    assert store.count() == 0
    assert len(pauses) == 3


def test_it_is_given_up_in_the_end(stub: QdrantStub, pauses: list[float], store: Store) -> None:
    stub.fails = lambda seen: Fault(503)
    before = len(stub.seen)
    with pytest.raises(
        ServerUnavailable, match=r"cannot count the chunks: made up \(503\).*running and reachable"
    ) as caught:
        store.count()
    assert isinstance(caught.value, ConnectionError)
    assert len(stub.seen) - before == 6
    assert len(pauses) == 5
    stub.fails = lambda seen: None


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (Fault(400), StorageProblem, r"made up \(400\)"),
        (Fault(404), StorageProblem, "index is damaged"),
        (Fault(500), StorageProblem, r"made up \(500\)"),
        (Fault(500, body=b'{"status": {"error": "No space left on device"}}'), DiskFull, "disk is full"),
        (Fault(422, body=b"plain text"), StorageProblem, "422 Unprocessable"),
        (Fault(200, body=b"<html>"), NotAnIndex, "no Qdrant server"),
        (Fault(200, body=b'{"result": {"x": 1}}'), NotAnIndex, "no Qdrant server"),
    ],
    ids=lambda value: f"{value.status}-{len(value.body)}" if isinstance(value, Fault) else None,
)
def test_what_asking_again_cannot_help_is_not_asked_again(
    stub: QdrantStub, pauses: list[float], store: Store, fault: Fault, kind: type[Exception], message: str
) -> None:
    stub.faults = [fault]
    with pytest.raises(kind, match=message):
        store.count()
    assert pauses == []


def test_no_server_is_an_error_of_ours(pauses: list[float]) -> None:
    with pytest.raises(ServerUnavailable, match="ConnectError"):
        ServerCatalog.open("http://127.0.0.1:9/handbook", retries=2)
    assert len(pauses) == 2


def test_a_request_that_takes_too_long_is_given_up(stub: QdrantStub, pauses: list[float]) -> None:
    connection = connect(stub, timeout=1, retries=1)
    with stub.lock, pytest.raises(ServerUnavailable, match="ReadTimeout"):
        connection.require_version()
    assert len(pauses) == 1
    connection.close()


def test_large_writes_are_cut_by_bytes_and_by_count(stub: QdrantStub, store: Store) -> None:
    def sizes(count: int, text: str) -> list[int]:
        before = len(stub.seen)
        store.upsert([chunk(n, text) for n in range(count)])
        return [seen.size for seen in stub.seen[before:] if seen.path.endswith("/points") and seen.method == "PUT"]

    large = sizes(60, "é" * 100_000)
    assert len(large) > 2
    assert max(large) < 5_000_000
    assert len(sizes(600, "short")) == 3
    assert len(sizes(1, "x" * 6_000_000)) == 1, "one that is too large stands alone"


def test_writes_wait_until_they_are_applied(stub: QdrantStub, store: Store) -> None:
    store.upsert([chunk(1)])
    store.set_payload({UUID(int=1): {"start": 1}})
    store.delete([UUID(int=1)])
    writes = [seen for seen in stub.seen if "/points" in seen.path and "wait" in seen.query]
    assert len(writes) >= 3
    assert all(seen.query["wait"] == ["true"] for seen in writes)
    ledger = [seen for seen in writes if "--catalog" in seen.path]
    assert {tuple(seen.query["ordering"]) for seen in ledger} == {("strong",)}


# --- options ----------------------------------------------------------------------------------------------------------
def test_options_reach_the_collections(stub: QdrantStub) -> None:
    catalog = ServerCatalog.open(
        f"{stub.url}/handbook",
        shard_number=3,
        replication_factor=2,
        write_consistency_factor=2,
        on_disk=True,
        on_disk_payload=True,
        datatype="float16",
        quantization_config={"scalar": {"type": "int8", "always_ram": True}},
        hnsw_config={"m": 32},
    )
    with catalog.writing():
        catalog.create(contract(), serve=True)
    catalog.close()
    made = {
        seen.path.split("/")[-1]: seen.body for seen in stub.seen if seen.method == "PUT" and seen.path.count("/") == 2
    }
    assert set(made) == {"handbook--catalog", "handbook--v1", "handbook--v1--ledger"}
    assert made["handbook--v1"]["vectors"] == {
        contract().space: {
            "size": DIMENSIONS,
            "distance": "Dot",
            "on_disk": True,
            "datatype": "float16",
            "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
            "hnsw_config": {"m": 32},
        }
    }
    assert [made[name]["shard_number"] for name in sorted(made)] == [1, 3, 3]
    assert {body["replication_factor"] for body in made.values()} == {2}
    assert {body["write_consistency_factor"] for body in made.values()} == {2}


@pytest.mark.parametrize(
    "options",
    [
        {"shards": 3},
        {"timeout": 0},
        {"retries": -1},
        {"lease_seconds": 10, "timeout": 30},
        {"prefer_grpc": True, "verify": False},
        {"ca": "/no/such/file"},
    ],
    ids=repr,
)
def test_an_option_that_cannot_be_used_is_refused(stub: QdrantStub, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        ServerCatalog.open(f"{stub.url}/handbook", **options)
    assert stub.seen == []


def test_certificates_are_checked_unless_told_otherwise(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    pem = next((path for path in (ssl.get_default_verify_paths().cafile,) if path and Path(path).is_file()), None)
    if pem is None:
        import certifi

        pem = certifi.where()
    ca.write_bytes(Path(pem).read_bytes())

    def mode(**options: Any) -> ssl.VerifyMode:
        address = parse_address("https://localhost:6333/handbook")
        connection = ServerConnection.open(address, ServerOptions(**options))
        rest: Any = connection._client.http.client._client  # type: ignore[union-attr] # httpx shows it nowhere else
        context: ssl.SSLContext = rest._transport._pool._ssl_context
        connection.close()
        return context.verify_mode

    assert mode() == ssl.CERT_REQUIRED
    assert mode(ca=ca) == ssl.CERT_REQUIRED
    assert mode(verify=False) == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("http://localhost:6333/handbook", "http://localhost:6333/handbook"),
        ("https://host/handbook", "https://host:6333/handbook"),
        ("https://host:443/proxy/path/hand-book_2/", "https://host:443/proxy/path/hand-book_2"),
        ("http://[::1]:6333/x", "http://[::1]:6333/x"),
    ],
)
def test_an_address_is_a_server_and_a_name(url: str, location: str) -> None:
    assert parse_address(url).location == location


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:6333",
        "http://localhost:6333/",
        "ftp://localhost/handbook",
        "http:///handbook",
        "http://localhost:6333/a--b",
        "http://localhost:6333/-a",
        "http://localhost:6333/a b",
        "http://localhost:6333/" + "x" * 201,
        "http://user:secret@localhost:6333/handbook",
        "http://localhost:6333/handbook?api_key=secret",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)


def test_an_old_server_is_refused_with_the_reason() -> None:
    with QdrantStub(version="1.16.3") as old, pytest.raises(StorageProblem, match=r"Qdrant 1\.16\.3.*1\.20.*Upgrade"):
        ServerCatalog.open(f"{old.url}/handbook")

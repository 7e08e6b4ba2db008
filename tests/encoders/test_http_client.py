"""The client against a real server that fails as it is told to: what is tried again, after what wait, what is told."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from model_server import ModelServer, Reply, running

from tarragon.encoders.http_client import HttpModel, checked_url, key_variable
from tarragon.errors import EncodingFailed, InvalidRecipe, ModelNotFound, ModelUnavailable

KEY = "sk-very-secret-0123456789"
EMBED = {"inputs": ["some text"], "truncate": False}


@pytest.fixture
def server() -> Iterator[tuple[ModelServer, str]]:
    with running() as started:
        yield started


def test_what_passes_is_tried_again_after_the_wait_that_the_server_asks_for(server: tuple[ModelServer, str]) -> None:
    model, url = server
    model.replies = [Reply(429, headers={"Retry-After": "7"}), Reply(503), Reply(0), Reply(424)]
    waits: list[float] = []
    client = HttpModel(url, sleep=waits.append)
    assert len(client.post("/embed", EMBED)[0]) == 32
    assert len(model.requests) == 5
    assert waits[0] == 7.0
    for wait, most in zip(waits[1:], (2.0, 4.0, 8.0), strict=True):
        assert most / 2 <= wait <= most
    client.close()


def test_a_date_to_wait_for_is_understood(server: tuple[ModelServer, str]) -> None:
    model, url = server
    now = datetime.now(timezone.utc)
    dates = [format_datetime(now + timedelta(seconds=n), usegmt=True) for n in (40, -40)]
    model.replies = [Reply(503, headers={"Retry-After": date}) for date in [*dates, "soon"]]
    waits: list[float] = []
    client = HttpModel(url, sleep=waits.append)
    client.post("/embed", EMBED)
    assert 30 < waits[0] <= 40
    assert waits[1] == 0
    assert 2 <= waits[2] <= 4, "what cannot be read is no wish"
    client.close()


def test_a_server_that_asks_for_very_long_is_given_up_at_once(server: tuple[ModelServer, str]) -> None:
    model, url = server
    model.replies = [Reply(429, headers={"Retry-After": "3600"})] * 5
    waits: list[float] = []
    client = HttpModel(url, sleep=waits.append)
    with pytest.raises(ModelUnavailable, match="3600 s") as caught:
        client.post("/embed", EMBED)
    assert (waits, len(model.requests), caught.value.data["status"]) == ([], 1, 429)
    client.close()


def test_after_the_last_try_the_error_says_where_what_and_how_often(server: tuple[ModelServer, str]) -> None:
    model, url = server
    model.replies = [Reply(503, {"error": "model is loading"})] * 9
    client = HttpModel(url, tries=3, sleep=lambda _: None)
    with pytest.raises(ModelUnavailable, match=f"{url}/embed answers 503 .*model is loading, 3 times") as caught:
        client.post("/embed", EMBED)
    assert len(model.requests) == 3
    assert caught.value.data == {"url": f"{url}/embed", "status": 503, "too_large": False}
    assert isinstance(caught.value, ConnectionError)
    client.close()


def test_a_silent_server_times_out_and_is_tried_again(server: tuple[ModelServer, str]) -> None:
    model, url = server
    model.replies = [Reply(200, [], delay=1.5)] * 2
    client = HttpModel(url, tries=2, timeout=0.4, sleep=lambda _: None)
    with pytest.raises(ModelUnavailable, match=r"ReadTimeout.* 2 times") as caught:
        client.post("/embed", EMBED)
    assert caught.value.data["status"] is None
    assert len(model.requests) == 2
    client.close()


def test_where_nothing_listens_the_address_is_told() -> None:
    with running() as (_, url):
        pass
    client = HttpModel(url, tries=2, sleep=lambda _: None)
    with pytest.raises(ModelUnavailable, match=f"{url}/info cannot be reached .*ConnectError"):
        client.get("/info")
    client.close()


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply(404, {"error": {"message": "no such model"}}), ModelNotFound, "no such model"),
        (Reply(401, {"error": "no"}), ModelUnavailable, "Set the key .*TARRAGON_KEY_127_0_0_1"),
        (Reply(403, {"error": "no"}), ModelUnavailable, "Set the key"),
        (Reply(400, {"detail": [{"msg": "bad field"}]}), ModelUnavailable, "bad field"),
        (Reply(307, headers={"Location": "http://127.0.0.1:9/elsewhere"}), ModelUnavailable, "not followed"),
        (Reply(429, {"error": {"code": "insufficient_quota"}}), ModelUnavailable, "quota"),
        (Reply(200, "<html>hello</html>"), EncodingFailed, "no JSON: '<html>"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_what_does_not_pass_is_not_tried_again(
    server: tuple[ModelServer, str], reply: Reply, error: type[Exception], says: str
) -> None:
    model, url = server
    model.replies = [reply]
    client = HttpModel(url, sleep=lambda _: pytest.fail("waited"))
    with pytest.raises(error, match=says):
        client.post("/embed", EMBED)
    assert len(model.requests) == 1
    client.close()


@pytest.mark.parametrize(
    ("status", "body", "too_large"),
    [
        (413, "", True),
        (422, {"error": "batch size 33 > maximum allowed batch size 32"}, True),
        (400, {"error": {"message": "This model's maximum context length is 8192 tokens, you requested 9000"}}, True),
        (500, {"error": {"message": "input is too large to process. increase the physical batch size"}}, True),
        (400, {"error": {"message": "unknown field"}}, False),
    ],
)
def test_what_a_smaller_request_could_mend_is_told_apart(
    server: tuple[ModelServer, str], status: int, body: Any, too_large: bool
) -> None:
    model, url = server
    model.replies = [Reply(status, body)]
    client = HttpModel(url)
    with pytest.raises(ModelUnavailable) as caught:
        client.post("/embed", EMBED)
    assert caught.value.data == {"status": status, "too_large": too_large}
    client.close()


# --- the key ----------------------------------------------------------------------------------------------------------
def test_the_key_is_sent_and_never_told(
    server: tuple[ModelServer, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, url = server
    monkeypatch.setenv("SOME_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    client = HttpModel(url, api_key_env="SOME_KEY", tries=2, sleep=lambda _: None)
    client.post("/embed", EMBED)
    assert model.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    echo = {"error": f"Incorrect API key provided: {KEY}"}
    for replies in ([Reply(401, echo)], [Reply(400, echo)], [Reply(503, echo)] * 2, [Reply(200, f"oops {KEY}")]):
        model.replies = list(replies)
        with pytest.raises((ModelUnavailable, EncodingFailed)) as caught:
            client.post("/embed", EMBED)
        error = caught.value
        assert KEY not in f"{error} {error!r} {error.data} {error.__cause__!r} {error.__context__!r}"
    model.replies = [Reply(401, {"error": f"Incorrect API key provided: {KEY[:10]}***{KEY[-4:]}"})]
    with pytest.raises(ModelUnavailable, match=r"Check the key .*SOME_KEY") as caught:
        client.post("/embed", EMBED)
    assert KEY[:10] not in str(caught.value), "nor a part of it, which some servers repeat"
    model.replies = [Reply(400, {"error": "x" * 190 + f" Bearer {KEY}"})]  # where the message is cut
    with pytest.raises((ModelUnavailable, EncodingFailed)) as caught:
        client.post("/embed", EMBED)
    assert KEY[:6] not in str(caught.value)
    assert KEY not in repr(client)
    assert len(caplog.records) > 5
    assert KEY not in caplog.text
    client.close()


def test_a_key_belongs_to_its_host(server: tuple[ModelServer, str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, url = server
    assert key_variable("https://api.example.com:8443/v1") == "TARRAGON_KEY_API_EXAMPLE_COM"
    monkeypatch.setenv("TARRAGON_KEY_API_EXAMPLE_COM", KEY)
    HttpModel(url).post("/embed", EMBED)
    assert "Authorization" not in model.requests[-1][1]
    monkeypatch.setenv("TARRAGON_KEY_127_0_0_1", KEY)
    HttpModel(url).post("/embed", EMBED)
    assert model.requests[-1][1]["Authorization"] == f"Bearer {KEY}"


def test_a_missing_or_impossible_key_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="TARRAGON_KEY_EXAMPLE_COM"):
        HttpModel("https://example.com", needs_key=True)
    for impossible in ("two\nlines-of-secret", "secret-naïve", "secret with blanks"):
        monkeypatch.setenv("TARRAGON_KEY_EXAMPLE_COM", impossible)
        with pytest.raises(ModelNotFound, match="TARRAGON_KEY_EXAMPLE_COM") as caught:
            HttpModel("https://example.com")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hush@example.com/v1",
        "https://example.com/v1?api-key=hush",
        "https://example.com/#hush",
        "hush@example.com",
        "ftp://example.com",
        "http://",
        "example.com",
        "http://example.com:0",
        "http://example.com:99999999",
        "",
    ],
)
def test_an_address_with_a_secret_or_none_at_all_is_refused(url: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        HttpModel(url)
    assert "hush" not in str(caught.value)


def test_addresses_lose_the_slash_at_their_end() -> None:
    assert checked_url("http://[::1]:8080/v1/") == "http://[::1]:8080/v1"


# --- odds and ends ----------------------------------------------------------------------------------------------------
def test_text_that_is_no_unicode_arrives_with_question_marks(server: tuple[ModelServer, str]) -> None:
    model, url = server
    client = HttpModel(url)
    client.post("/embed", {**EMBED, "inputs": ["a\ud800b", "漢字 🙂"]})
    assert model.asked("/embed")[0]["inputs"] == ["a?b", "漢字 🙂"]
    client.close()


def test_connections_close_with_the_object(server: tuple[ModelServer, str]) -> None:
    client = HttpModel(server[1])
    client.post("/embed", EMBED)
    inner = client._client
    del client
    gc.collect()
    assert inner.is_closed

"""A language model over HTTP: what is sent, what is understood, what is done about refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_server import Refusal, chatting

from tarragon.errors import AnsweringFailed, InvalidInput, InvalidRecipe, ModelUnavailable
from tarragon.evaluation.chat import ChatModel


def number(said: dict[str, Any]) -> int:
    if type(said.get("n")) is not int:
        raise ValueError("'n' must be a whole number")
    return int(said["n"])


def test_a_text_and_its_tokens() -> None:
    with chatting(lambda prompt: prompt.upper()) as (server, url):
        reply = ChatModel("m", url).text("hello")
        assert (reply.text, reply.tokens) == ("HELLO", 5)
        [body] = server.bodies
        assert (body["model"], body["temperature"], body["seed"]) == ("m", 0.0, 0)
        assert "response_format" not in body


@pytest.mark.parametrize(
    "said",
    [
        '{"n": 7}',
        'Sure:\n```json\n{"n": 7}\n```\nDone.',
        '<think>{"n": 1} or {</think> {"n": 7} {"n": 8}',
        'about {braces} {"n": 7}',
    ],
)
def test_json_in_whatever_it_is_wrapped(said: str) -> None:
    with chatting(lambda _: said) as (server, url):
        assert ChatModel("m", url).json("give", number)[0] == 7
        assert server.bodies[0]["response_format"] == {"type": "json_object"}


def test_what_cannot_be_read_is_asked_for_once_more() -> None:
    with chatting(lambda prompt: '{"n": 3}' if "whole number" in prompt else '{"n": "three"}') as (server, url):
        assert ChatModel("m", url).json("give", number)[0] == 3
        roles = [message["role"] for message in server.bodies[1]["messages"]]
        assert roles == ["user", "assistant", "user"]


@pytest.mark.parametrize("said", ["no", '{"n": 1.5}', "[1]", "{" * 5000])
def test_what_cannot_be_read_twice_is_an_error_with_the_reply(said: str) -> None:
    with chatting(lambda _: said) as (server, url):
        with pytest.raises(AnsweringFailed, match="also when asked again") as error:
            ChatModel("m", url).json("give", number)
        assert error.value.data["reply"] == said
        assert len(server.bodies) == 2


def test_settings_that_a_server_refuses_are_left_out_from_then_on() -> None:
    refused = {
        "response_format": "response_format is not supported",
        "temperature": "Unsupported value: 'temperature'",
        "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead",
    }

    def say(_: str) -> str:
        for name, message in refused.items():
            if name in server.bodies[-1]:
                raise Refusal(400, message)
        return '{"n": 1}'

    with chatting(say) as (server, url):
        model = ChatModel("m", url, max_tokens=99)
        assert model.json("give", number)[0] == 1
        assert len(server.bodies) == 4
        assert server.bodies[-1]["max_completion_tokens"] == 99
        model.json("again", number)
        assert len(server.bodies) == 5


def test_another_refusal_is_told() -> None:
    def say(_: str) -> str:
        raise Refusal(400, "no credit")

    with chatting(say) as (server, url):
        with pytest.raises(ModelUnavailable, match="no credit"):
            ChatModel("m", url).text("hello")
        assert len(server.bodies) == 1


@pytest.mark.parametrize("said", [{}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, []])
def test_an_answer_without_a_text_is_an_error(said: Any) -> None:
    with chatting(lambda _: said) as (_, url), pytest.raises(AnsweringFailed, match="without a text"):
        ChatModel("m", url).text("hello")


def test_the_key_goes_to_the_server_and_into_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")

    def say(_: str) -> str:
        raise Refusal(400, "bad key sk-secret")

    with chatting(say) as (server, url):
        model = ChatModel("m", url, api_key_env="MY_KEY")
        with pytest.raises(ModelUnavailable) as error:
            model.text("hello")
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in f"{error.value} {model!r} {json.dumps(error.value.data, default=str)}"


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        ChatModel("", "http://localhost:1/v1")
    with pytest.raises(InvalidRecipe):
        ChatModel("m", "localhost")

"""What a request may ask: bad values are named, never repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from luthier.config.sampling import SamplingSection
from luthier.serve.request import ApiError, parse_request
from luthier.tasks.conversation import Message

USER = {"role": "user", "content": "Hi"}


def parse(**fields: Any) -> Any:
    return parse_request(json.dumps({"messages": [USER], **fields}).encode())


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 10**9),
        ("n", 0),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 10**12),
        ("max_tokens", 1.5),
        ("max_tokens", "8"),
        ("max_tokens", True),
        ("max_completion_tokens", -5),
        ("temperature", -0.1),
        ("temperature", 1e9),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("repetition_penalty", 0.5),
        ("seed", 2**63),
        ("seed", 10**30),
        ("seed", 1.5),
        ("stop", ["x"] * 10_000),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ""),
        ("stop", [1]),
        ("stop", "x" * 1000),
        ("stream", "yes"),
        ("messages", []),
        ("messages", [USER] * 1025),
        ("messages", [{"role": "wizard", "content": "Hi"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]),
        ("messages", [USER, {"role": "assistant", "content": "Hello"}]),
        ("messages", "Hi"),
        ("model", 5),
        ("logit_bias", {str(i): 1 for i in range(1000)}),
        ("min_tokens", 5),
        ("tools", [{"type": "function"}]),
        ("logprobs", True),
        ("presence_penalty", 0.5),
        ("response_format", {"type": "json_object"}),
        ("no_such_field", "x"),
    ],
)
def test_bad_values_are_refused_by_name(field: str, value: Any) -> None:
    """E6."""
    error = refusal(**{field: value})
    assert error.param == field
    assert field in error.message
    assert error.body()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    """E6."""
    with pytest.raises(ApiError) as caught:
        parse_request(f'{{"messages": [{json.dumps(USER)}], "temperature": {number}}}'.encode())
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000])
def test_bodies_that_are_no_object_are_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_request(body)
    assert caught.value.status == 400


def test_a_refusal_never_repeats_what_was_said() -> None:
    """E14."""
    secret = "my secret diary"
    bad: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [{"type": secret}]}]},
        {"messages": [{"role": secret, "content": secret}]},
        {"messages": [{"role": "user", "content": {"text": secret}}]},
        {"stop": [secret * 50]},
        {"temperature": secret},
        {"tools": [secret]},
    ]
    for fields in bad:
        assert secret not in refusal(**fields).message


def test_neutral_values_and_fields_without_effect_are_taken() -> None:
    request = parse(
        user="me",
        metadata={"a": "b"},
        store=False,
        tools=[],
        logit_bias={},
        presence_penalty=0,
        logprobs=None,
        n=1,
        response_format={"type": "text"},
    )
    assert request.sampling(SamplingSection()) == SamplingSection()


def test_what_is_asked_stands_over_the_defaults() -> None:
    settings = parse(temperature=0, top_p=0.5, max_tokens=7, top_k=3, repetition_penalty=1).sampling(SamplingSection())
    assert settings == SamplingSection(temperature=0, top_p=0.5, max_new_tokens=7, top_k=3, repetition_penalty=1)
    assert parse(max_tokens=7, max_completion_tokens=9).sampling(SamplingSection()).max_new_tokens == 9


def test_contents_in_parts_are_joined_and_stop_may_be_one_string() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    request = parse(messages=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}], stop="END")
    assert request.conversation("unused") == [Message("system", "Be kind."), Message("user", "Hello")]
    assert request.stop == ["END"]


def test_the_servers_system_prompt_stands_first_where_the_client_has_none() -> None:
    assert parse().conversation("Be kind.") == [Message("system", "Be kind."), Message("user", "Hi")]

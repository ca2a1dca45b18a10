"""Text completions through the official Python client."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import openai
import pytest
from openai import OpenAI

from marketplace.api.openai.completions import _job, _prompt
from marketplace.api.openai.requests import TextBody
from marketplace.domain.attempts import MAX_ANSWER_TOKENS
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import BadRequest
from tallystick.models.manifest import MAX_CONTEXT_LENGTH
from tallystick.models.renderer import Renderer
from tallystick.models.tokenizer import ByteTokenizer
from tests.support.acting import LIKELY
from tests.support.markets import CONSUMER
from tests.support.nodes import MANIFEST, MODEL_ID
from tests.support.servers import Server


def test_a_text_is_continued_as_it_stands(client: OpenAI, server: Server) -> None:
    answer = client.completions.create(model="echo", prompt="hello")
    assert answer.object == "text_completion"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hello", "stop")
    assert server.acts.last().prompt_text == "hello"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)
    assert answer.to_dict()["tallystick"]["charge_nano_usd"] == str(11 * 300)  # type: ignore[index]


@pytest.mark.parametrize("prompt", [["hello"], list(b"hello"), [list(b"hello")]])
def test_a_prompt_may_be_a_list_of_one_or_token_ids(
    client: OpenAI, server: Server, prompt: list[str] | list[int] | list[list[int]]
) -> None:
    answer = client.completions.create(model="echo", prompt=prompt)
    assert answer.choices[0].text == "hello"
    assert server.acts.last().prompt_ids == tuple(b"hello")


def test_more_ids_than_the_context_has_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="echo", prompt=[0] * 400_000)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")


class NeverRead(ByteTokenizer):
    """A stranger's tokens may be as long as they like: reading 500,000 of them would take the memory."""

    def decode(self, ids: Sequence[int]) -> str:
        raise AssertionError("a prompt of ids is not read")


async def test_a_prompt_of_ids_is_not_read() -> None:
    model = CatalogModel(MODEL_ID, "echo", MANIFEST, NeverRead(), Renderer().of(MANIFEST), 0)
    ids = list(b"hello")
    for prompt in (ids, [ids]):
        assert await _prompt(TextBody(model="echo", prompt=prompt), model) == ("", tuple(ids))
    room = MANIFEST.context_length
    assert len((await _prompt(TextBody(model="echo", prompt=[0] * (room - 1)), model))[1]) == room - 1
    with pytest.raises(BadRequest, match="leaves no room"):
        await _prompt(TextBody(model="echo", prompt=[0] * room), model)


@pytest.mark.parametrize("prompt", [["one", "two"], [], [999_999], [[1], [2]], [-1], [True]])
def test_several_prompts_or_ids_of_another_model_are_refused(client: OpenAI, prompt: list[object]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="echo", prompt=prompt)  # type: ignore[arg-type]
    assert refused.value.param == "prompt"


async def test_an_answer_has_so_many_tokens_at_most() -> None:
    manifest = msgspec.structs.replace(MANIFEST, context_length=MAX_CONTEXT_LENGTH)
    model = CatalogModel(MODEL_ID, "echo", manifest, ByteTokenizer(), Renderer().of(manifest), 0)
    caller: Any = SimpleNamespace(
        account_id=CONSUMER, key_id="", payer=CONSUMER, max_input_price=None, max_output_price=None
    )
    counter: Any = SimpleNamespace(default_max_tokens=1024)
    for asked, given in ((10_000_000, MAX_ANSWER_TOKENS), (None, 1024), (7, 7)):
        body = TextBody(model="echo", prompt="", max_tokens=asked)
        job = _job(counter, caller, body, model, "hello", tuple(b"hello"), -1)
        assert job.parameters.max_tokens == given


def test_a_streamed_text_is_the_whole_text_in_pieces(client: OpenAI) -> None:
    stream = client.completions.create(
        model="echo", prompt="a longer text", stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(one.choices[0].text for one in chunks if one.choices) == "a longer text"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert [one.usage for one in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_likelihoods_come_as_parallel_lists(client: OpenAI) -> None:
    answer = client.completions.create(model="echo", prompt=LIKELY, logprobs=2)
    shown = answer.choices[0].logprobs
    assert shown is not None
    assert (shown.tokens, shown.text_offset) == (["a", "b", "c"], [0, 1, 2])
    assert shown.token_logprobs == [-0.5] * 3
    assert shown.top_logprobs is not None
    assert shown.top_logprobs[0] == {"a": -0.5, "b": -1.5}


@pytest.mark.parametrize("field", ["echo", "suffix", "best_of"])
def test_what_only_the_old_interface_had_is_refused(client: OpenAI, field: str) -> None:
    values = {"echo": True, "suffix": "end", "best_of": 3}
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="echo", prompt="hello", **{field: values[field]})  # type: ignore[arg-type]
    assert refused.value.param == field

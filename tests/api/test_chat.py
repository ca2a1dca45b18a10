"""Chat completions, whole answers, through the official Python client."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from marketplace.storage.tables import JobRow
from tallystick.protocol.money import format_usd
from tallystick.protocol.parameters import MILLION
from tests.api.asking import ask, says
from tests.support.acting import LIKELY, SEEDED
from tests.support.servers import Server

PRICE = 300


def test_an_answer_has_text_usage_and_proof(client: OpenAI, server: Server, consumer: dict[str, Any]) -> None:
    answer = ask(client, "hello")
    prompt_tokens = len("user: hello\nassistant: ")
    assert (answer.object, answer.model) == ("chat.completion", "echo")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "hello")
    assert (choice.finish_reason, choice.logprobs) == ("stop", None)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == prompt_tokens
    assert answer.usage.completion_tokens == len("hello") + 1
    assert answer.usage.total_tokens == prompt_tokens + len("hello") + 1

    proof = answer.to_dict()["tallystick"]
    assert isinstance(proof, dict)
    charge = (prompt_tokens + len("hello") + 1) * PRICE
    assert proof["charge_nano_usd"] == str(charge)
    assert proof["charge_usd"] == format_usd(charge)  # type: ignore[arg-type]
    (part,) = proof["parts"]
    assert part["node"] == server.place.config("").node
    assert part["operator"] == server.place.config("").operator
    assert part["charge_nano_usd"] == str(charge)
    assert server.account(consumer["account_id"]).spent == charge


def test_the_answer_names_its_job_and_its_request(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="echo", messages=says("hello"))
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-tallystick-job"] == raw.parse().to_dict()["tallystick"]["job_id"]  # type: ignore[index]


def test_roles_and_parts_reach_the_chat_template(client: OpenAI, server: Server) -> None:
    client.chat.completions.create(
        model="echo",
        messages=[
            {"role": "developer", "content": "be kind"},
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": [{"type": "text", "text": "tw"}, {"type": "text", "text": "o"}]},
        ],
    )
    said = "system: be kind\nsystem: be brief\nuser: one\nassistant: 1\nuser: two\nassistant: "
    assert server.acts.last().prompt_text == said


def test_parameters_reach_the_node_as_they_were_sent(client: OpenAI, server: Server) -> None:
    ask(
        client,
        "hello",
        temperature=0.25,
        top_p=0.5,
        presence_penalty=-1.5,
        frequency_penalty=0.125,
        logit_bias={"104": -100, "7": 2.5},
        max_tokens=17,
        stop=["zzz", "yyy"],
        extra_body={"top_k": 40, "min_p": 0.01},
    )
    got = server.acts.last().parameters
    assert (got.temperature, got.top_p, got.top_k, got.min_p) == (250_000, 500_000, 40, 10_000)
    assert (got.presence_penalty, got.frequency_penalty) == (-1_500_000, 125_000)
    assert got.logit_bias == ((7, 2_500_000), (104, -100 * MILLION))
    assert (got.max_tokens, got.stop) == (17, ("zzz", "yyy"))


def test_what_is_not_said_has_the_defaults_of_the_market(client: OpenAI, server: Server) -> None:
    ask(client, "hello")
    got = server.acts.last()
    assert (got.parameters.temperature, got.parameters.top_p, got.parameters.top_k) == (MILLION, MILLION, 0)
    assert got.parameters.max_tokens == server.parts.settings.default_max_tokens
    assert got.top_logprobs == -1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_either_name_caps_the_answer(client: OpenAI, name: str) -> None:
    answer = ask(client, "hello", **{name: 3})
    assert answer.choices[0].message.content == "hel"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_the_newer_name_of_the_cap_wins(client: OpenAI) -> None:
    answer = ask(client, "hello", max_tokens=4, max_completion_tokens=2)
    assert answer.choices[0].message.content == "he"


def test_a_stop_string_ends_the_answer_before_itself(client: OpenAI) -> None:
    answer = ask(client, "one, two, three", stop=[", th", "zzz"])
    assert answer.choices[0].message.content == "one, two"
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_its_answer_and_another_seed_does_not(client: OpenAI, server: Server) -> None:
    first, again = ask(client, SEEDED, seed=7), ask(client, SEEDED, seed=7)
    other, unseeded = ask(client, SEEDED, seed=8), ask(client, SEEDED)
    texts = [one.choices[0].message.content for one in (first, again, other, unseeded)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_likelihoods_are_shown_for_every_token_but_the_end(client: OpenAI) -> None:
    answer = ask(client, LIKELY, logprobs=True, top_logprobs=2)
    shown = answer.choices[0].logprobs
    assert shown is not None
    assert shown.content is not None
    assert [one.token for one in shown.content] == ["a", "b", "c"]
    assert [one.logprob for one in shown.content] == [-0.5] * 3
    assert [one.token for one in shown.content[0].top_logprobs] == ["a", "b"]
    assert shown.content[1].bytes == [ord("b")]


def test_likelihoods_without_alternatives(client: OpenAI) -> None:
    answer = ask(client, LIKELY, logprobs=True)
    shown = answer.choices[0].logprobs
    assert shown is not None
    assert shown.content is not None
    assert [one.top_logprobs for one in shown.content] == [[], [], []]


def test_unknown_fields_are_passed_over(client: OpenAI) -> None:
    answer = ask(client, "hello", user="somebody", store=False, extra_body={"plugin": {"a": [1]}, "zz": 1})
    assert answer.choices[0].message.content == "hello"


def test_any_text_comes_back_as_it_went(client: OpenAI) -> None:
    said = 'naïve — “quoted” 🎻 \\n {"a": 1} \u0000 end'
    assert ask(client, said).choices[0].message.content == said


def test_price_caps_that_fit_are_honoured(client: OpenAI) -> None:
    wishes = {"tallystick": {"max_input_price": "0.30", "max_output_price": "0.30"}}
    assert ask(client, "hello", extra_body=wishes).choices[0].message.content == "hello"
    with pytest.raises(openai.InternalServerError, match="within your price cap"):
        ask(client, "hello", extra_body={"tallystick": {"max_output_price": "0.299"}})


def test_models_are_listed_and_found_by_name_and_alias(client: OpenAI) -> None:
    (listed,) = list(client.models.list())
    assert (listed.id, listed.object, listed.owned_by) == ("echo", "model", "tallystick")
    by_alias = client.models.retrieve("gpt-4o-mini")
    assert by_alias.id == "gpt-4o-mini"
    assert by_alias.to_dict()["tallystick"] == listed.to_dict()["tallystick"]
    told = listed.to_dict()["tallystick"]
    assert isinstance(told, dict)
    assert (told["input_price"], told["output_price"], told["nodes"]) == ("0.30", "0.30", 1)


def test_an_alias_is_the_model_under_the_name_that_was_asked_for(client: OpenAI) -> None:
    answer = ask(client, "hello", model="gpt-4o-mini")
    assert (answer.model, answer.choices[0].message.content) == ("gpt-4o-mini", "hello")


def test_each_answer_leaves_one_done_job_and_no_hold(
    client: OpenAI, server: Server, consumer: dict[str, Any]
) -> None:
    ask(client, "hello")
    ask(client, "again")
    account_id = consumer["account_id"]
    jobs = server.read(
        lambda session: [
            (job.state, job.charge) for job in session.query(JobRow).filter_by(account_id=account_id)
        ]
    )
    account = server.account(account_id)
    assert [state for state, _ in jobs] == ["done", "done"]
    assert (account.held, account.spent) == (0, sum(charge for _, charge in jobs))

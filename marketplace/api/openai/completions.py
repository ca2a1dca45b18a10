"""`POST /v1/chat/completions` and `POST /v1/completions`: from bytes in to bytes out."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from marketplace.api.errors import error_object
from marketplace.api.openai.rendering import (
    ChatLogprobs,
    Frame,
    TextLogprobs,
    chat_choice,
    chat_message,
    finish_reason,
    proof,
    text_choice,
    text_message,
    usage,
)
from marketplace.api.openai.requests import (
    ChatBody,
    SamplingBody,
    Tallystick,
    TextBody,
    asked_tokens,
    messages_of,
    parameters_of,
    read_chat,
    read_text,
)
from marketplace.api.openai.submitting import submit_once
from marketplace.api.sse import DONE, EventStream, event, unless_reader_leaves
from marketplace.domain.attempts import MAX_ANSWER_TOKENS
from marketplace.domain.catalog import CatalogModel
from marketplace.domain.errors import BadRequest, MarketError
from marketplace.domain.jobs import Completed, Delta, JobEvent, JobRequest, Wishes
from marketplace.services.acceptance import Market
from marketplace.services.catalog import Catalog
from marketplace.services.keys import Caller
from marketplace.services.repeats import Repeats
from marketplace.services.running import ReaderLeft, RunningJob
from tallystick.models.chat import BadMessages, BadTemplate, Prompt, PromptTooLong
from tallystick.models.tokenizer import BadTokenizer
from tallystick.protocol.money import NanoUsd, parse_price

Authenticate = Callable[[Request], Awaitable[Caller]]
CLIENT_CLOSED: Final = 499
NO_LOGPROBS: Final = -1


@dataclass(frozen=True, slots=True)
class Counter:
    """What both endpoints work with."""

    market: Market
    catalog: Catalog
    authenticate: Authenticate
    repeats: Repeats
    default_max_tokens: int


class Shape(Protocol):
    """How one of the two endpoints words its answers."""

    prefix: str
    object: str
    chunk_object: str

    def whole(
        self, frame: Frame, text: str, completed: Completed, logprobs: dict[str, Any] | None, job_id: bytes
    ) -> dict[str, Any]: ...
    def first(self) -> dict[str, Any] | None: ...
    def piece(self, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]: ...
    def last(self, finish: str) -> dict[str, Any]: ...


class ChatShape:
    """`chat.completion` and its chunks."""

    prefix = "chatcmpl-"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    whole = staticmethod(chat_message)

    def first(self) -> dict[str, Any] | None:
        """The role comes before any text."""
        return chat_choice({"role": "assistant", "content": ""})

    def piece(self, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """A piece of text."""
        return chat_choice({"content": text}, logprobs)

    def last(self, finish: str) -> dict[str, Any]:
        """The end."""
        return chat_choice({}, finish=finish)


class TextShape:
    """`text_completion`, whole and streamed alike."""

    prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"
    whole = staticmethod(text_message)

    def first(self) -> dict[str, Any] | None:
        """Nothing comes before the text."""
        return None

    def piece(self, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        """A piece of text."""
        return text_choice(text, logprobs)

    def last(self, finish: str) -> dict[str, Any]:
        """The end."""
        return text_choice("", finish=finish)


async def chat_completions(request: Request, counter: Counter) -> ASGIApp:
    """Answer a chat. Raises MarketError."""
    caller = await counter.authenticate(request)
    body = read_chat(await request.body())
    model = counter.catalog.resolve(body.model)
    prompt, ids = await _chat_prompt(model, messages_of(body))
    top = (body.top_logprobs or 0) if body.logprobs else NO_LOGPROBS
    job = _job(counter, caller, body, model, prompt, ids, top)
    running = await submit_once(counter.market, counter.repeats, request, job)
    return await _answer(request, body, running, ChatShape(), ChatLogprobs(model, top))


async def completions(request: Request, counter: Counter) -> ASGIApp:
    """Continue a text. Raises MarketError."""
    caller = await counter.authenticate(request)
    body = read_text(await request.body())
    model = counter.catalog.resolve(body.model)
    prompt, ids = await _prompt(body, model)
    top = NO_LOGPROBS if body.logprobs is None else body.logprobs
    job = _job(counter, caller, body, model, prompt, ids, top)
    running = await submit_once(counter.market, counter.repeats, request, job)
    return await _answer(request, body, running, TextShape(), TextLogprobs(model, top))


async def _chat_prompt(model: CatalogModel, messages: list[dict[str, str]]) -> Prompt:
    with _faults_named(model, "messages"):
        return await model.prompts.chat(messages)


@contextlib.contextmanager
def _faults_named(model: CatalogModel, param: str) -> Iterator[None]:
    """Say whose fault it is that there is no prompt. Raises BadRequest."""
    try:
        yield
    except PromptTooLong as error:
        raise _too_long(error.tokens, model, param) from error
    except BadMessages as error:
        raise BadRequest(f"The model's chat template refuses these messages: {error}", param=param) from error
    except BadTemplate as error:
        raise BadRequest(
            f"This model's chat template does not work: {error}. Choose another model.",
            code="bad_template",
            param="model",
        ) from error
    except BadTokenizer as error:
        raise BadRequest(
            f"This model's tokenizer does not work: {error}. Choose another model.",
            code="bad_tokenizer",
            param="model",
        ) from error


async def _prompt(body: TextBody, model: CatalogModel) -> tuple[str, tuple[int, ...]]:
    """Return the prompt's text and ids; a list with one prompt, and a list of token ids, are prompts too."""
    match body.prompt:
        case str(text) | [str(text)]:
            with _faults_named(model, "prompt"):
                return text, await model.prompts.encode(text)
        case [list(nested)]:
            return _prompt_of_ids(nested, model)
        case list(ids):
            return _prompt_of_ids(ids, model)


def _prompt_of_ids(ids: list[Any], model: CatalogModel) -> tuple[str, tuple[int, ...]]:
    """Return an empty text and the ids, unread: whoever shows its tokens is asked in ids alone."""
    if len(ids) >= model.context_length:
        raise _too_long(len(ids), model, "prompt")
    if model.tokenizer is None or not _are_ids(ids, model.tokenizer.vocab_size):
        raise BadRequest("`prompt` must be one string, or the token ids of one.", param="prompt")
    return "", tuple(ids)


def _are_ids(ids: list[Any], size: int) -> bool:
    return set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < size


def _job(
    counter: Counter,
    caller: Caller,
    body: SamplingBody,
    model: CatalogModel,
    prompt: str,
    ids: tuple[int, ...],
    top_logprobs: int,
) -> JobRequest:
    room = model.context_length - len(ids)
    if room < 1:
        raise _too_long(len(ids), model, "messages" if isinstance(body, ChatBody) else "prompt")
    asked = asked_tokens(body)
    most = min(room, MAX_ANSWER_TOKENS)
    return JobRequest(
        account_id=caller.account_id,
        key_id=caller.key_id,
        payer=caller.payer,
        model_id=model.id,
        model_name=model.name,
        prompt_ids=ids,
        prompt_text=prompt,
        parameters=parameters_of(
            body, max_tokens=min(counter.default_max_tokens if asked is None else asked, most)
        ),
        caller_seed=body.seed,
        top_logprobs=top_logprobs,
        wishes=_wishes(body, caller),
    )


def _too_long(tokens: int, model: CatalogModel, param: str) -> BadRequest:
    return BadRequest(
        f"The prompt has {tokens} tokens; the model's context of {model.context_length} leaves no room for "
        "an answer. Shorten it.",
        code="context_length_exceeded",
        param=param,
    )


def _wishes(body: SamplingBody, caller: Caller) -> Wishes:
    asked = body.tallystick or Tallystick()
    return Wishes(
        max_input_price=_cap(asked.max_input_price, caller.max_input_price, "max_input_price"),
        max_output_price=_cap(asked.max_output_price, caller.max_output_price, "max_output_price"),
        region=asked.region,
    )


def _cap(asked: str | None, of_key: NanoUsd | None, name: str) -> NanoUsd | None:
    """Return the lower of the request's price cap and the key's."""
    try:
        price = None if asked is None else parse_price(asked)
    except ValueError as error:
        raise BadRequest(f"`tallystick.{name}`: {error}.", param=f"tallystick.{name}") from error
    caps = [cap for cap in (price, of_key) if cap is not None]
    return min(caps) if caps else None


async def _answer(
    request: Request,
    body: SamplingBody,
    running: RunningJob,
    shape: Shape,
    logprobs: ChatLogprobs | TextLogprobs,
) -> ASGIApp:
    job_id = running.accepted.id
    streams = bool(body.stream)
    frame = Frame(
        id=shape.prefix + job_id.hex(),
        object=shape.chunk_object if streams else shape.object,
        created=int(time.time()),
        model=body.model,
    )
    headers = {"x-tallystick-job": "0x" + job_id.hex()}
    try:
        if not streams:
            collecting = _collect(running, frame, shape, logprobs)
            whole = await unless_reader_leaves(request.receive, running.aclose, collecting)
            return Response(msgspec.json.encode(whole), 200, headers, "application/json")
        # Waiting for the first event lets a job that fails at once still answer with a status.
        first = await unless_reader_leaves(request.receive, running.aclose, anext(running))
    except ReaderLeft:
        return Response(status_code=CLIENT_CLOSED)
    except BaseException:  # a cancelled request too must stop its job; nothing is swallowed
        await running.aclose()
        raise
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    chunks = _chunks(running, first, frame, shape, logprobs, with_usage=with_usage)
    return EventStream(chunks, headers, running.aclose)


async def _collect(
    running: RunningJob, frame: Frame, shape: Shape, logprobs: ChatLogprobs | TextLogprobs
) -> dict[str, Any]:
    deltas: list[Delta] = []
    async for happened in running:
        match happened:
            case Delta():
                deltas.append(happened)
            case Completed():
                text = "".join(delta.text for delta in deltas)
                return shape.whole(frame, text, happened, logprobs.render(deltas), running.accepted.id)
    raise RuntimeError("the job ended without saying how")


async def _chunks(
    running: RunningJob,
    first: JobEvent,
    frame: Frame,
    shape: Shape,
    logprobs: ChatLogprobs | TextLogprobs,
    *,
    with_usage: bool,
) -> AsyncGenerator[bytes, None]:
    """Give the events of one streamed answer; a failure in the middle is an `error` without `[DONE]`."""
    head = frame.head() | ({"usage": None} if with_usage else {})
    happened: JobEvent | None = first
    try:
        if (opening := shape.first()) is not None:
            yield event(head | {"choices": [opening]})
        while happened is not None:
            match happened:
                case Delta() as delta:
                    if delta.text or delta.logprobs:
                        yield event(head | {"choices": [shape.piece(delta.text, logprobs.render([delta]))]})
                case Completed() as completed:
                    last = shape.last(finish_reason(completed.finish))
                    yield event(
                        head | {"choices": [last], "tallystick": proof(running.accepted.id, completed)}
                    )
                    if with_usage:
                        yield event(head | {"choices": [], "usage": usage(completed)})
                    yield DONE
            happened = await anext(running, None)
    except MarketError as error:
        yield event({"error": error_object(error)})
    finally:
        await running.aclose()

"""Bodies of `/v1/chat/completions` and `/v1/completions`: read, checked, made the protocol's parameters.

Unknown fields are ignored, as OpenAI's clients and their plugins send many. Known fields that this market
cannot honour get a clear 400 rather than an answer that ignores them.
"""

from typing import Any, Final, TypeVar

import msgspec

from marketplace.domain.errors import BadRequest
from tallystick.protocol.parameters import MAX_STOP_CHARACTERS, MILLION, TOP_K_CAP, Parameters

MAX_STOPS: Final = 4
MAX_MESSAGES: Final = 4096
MAX_LOGIT_BIASES: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
DEFAULT_TEMPERATURE: Final = 1.0

T = TypeVar("T", bound="SamplingBody")


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool = False


class Tallystick(msgspec.Struct, frozen=True):
    """This market's own wishes: price caps in USD per million tokens, as strings, and a region."""

    max_input_price: str | None = None
    max_output_price: str | None = None
    region: str = ""


class SamplingBody(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of completion share."""

    model: str
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tallystick: Tallystick | None = None


class ChatBody(SamplingBody, frozen=True, kw_only=True):
    """The body of a chat completion."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | str | None = None
    modalities: list[str] | None = None
    audio: Any = None


class TextBody(SamplingBody, frozen=True, kw_only=True):
    """The body of a (legacy) text completion."""

    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


_chat = msgspec.json.Decoder(ChatBody)
_text = msgspec.json.Decoder(TextBody)


def read_chat(body: bytes) -> ChatBody:
    """Return a checked chat request. Raises BadRequest naming the field at fault."""
    read = _decode(_chat, body)
    _refuse(
        bool(read.tools or read.functions),
        "tools",
        "Tools are not supported yet; send the request without `tools`.",
    )
    kind = (
        read.response_format.get("type") if isinstance(read.response_format, dict) else read.response_format
    )
    _refuse(
        kind not in (None, "text"), "response_format", "Only the `text` response format is supported yet."
    )
    _refuse(read.modalities not in (None, ["text"]), "modalities", "Only text answers are supported.")
    _refuse(read.audio is not None, "audio", "Only text answers are supported.")
    _check_common(read)
    _bounds(read.max_completion_tokens, "max_completion_tokens", 1, 10_000_000)
    _bounds(read.top_logprobs, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    _refuse(
        read.top_logprobs is not None and not read.logprobs,
        "top_logprobs",
        "`top_logprobs` needs `logprobs: true`.",
    )
    return read


def read_text(body: bytes) -> TextBody:
    """Return a checked text completion request. Raises BadRequest naming the field at fault."""
    read = _decode(_text, body)
    _refuse(bool(read.echo), "echo", "`echo` is not supported; the prompt is not part of the answer.")
    _refuse(bool(read.suffix), "suffix", "`suffix` is not supported.")
    _refuse(
        read.best_of not in (None, 1),
        "best_of",
        "`best_of` over 1 is not supported; ask several times instead.",
    )
    _check_common(read)
    _bounds(read.logprobs, "logprobs", 0, MAX_TOP_LOGPROBS)
    return read


def messages_of(body: ChatBody) -> list[dict[str, str]]:
    """Return the messages as pairs of role and text; a list of text parts is joined.

    Raises BadRequest for an empty list, a missing role, or a part that is not text.
    """
    if not body.messages:
        raise BadRequest("`messages` is empty; send at least one message.", param="messages")
    if len(body.messages) > MAX_MESSAGES:
        raise BadRequest(
            f"{len(body.messages)} messages exceed the limit of {MAX_MESSAGES}.", param="messages"
        )
    return [_message(number, message) for number, message in enumerate(body.messages)]


def parameters_of(body: SamplingBody, *, max_tokens: int) -> Parameters:
    """Return the sampling parameters in the protocol's integers; the body must have been checked."""
    temperature = DEFAULT_TEMPERATURE if body.temperature is None else body.temperature
    return Parameters(
        temperature=_millionths(temperature),
        top_p=_millionths(1.0 if body.top_p is None else body.top_p),
        top_k=min(max(body.top_k or 0, 0), TOP_K_CAP),
        min_p=_millionths(body.min_p or 0.0),
        presence_penalty=_millionths(body.presence_penalty or 0.0),
        frequency_penalty=_millionths(body.frequency_penalty or 0.0),
        logit_bias=_biases(body.logit_bias or {}),
        max_tokens=max_tokens,
        stop=_stops(body.stop),
    )


def asked_tokens(body: SamplingBody) -> int | None:
    """Return the cap on the answer's tokens that the caller set, if any; the newer name wins."""
    newer = body.max_completion_tokens if isinstance(body, ChatBody) else None
    return body.max_tokens if newer is None else newer


def _decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}") from error


def _check_common(body: SamplingBody) -> None:
    _refuse(not body.model, "model", "`model` is empty; GET /v1/models lists the models.")
    _refuse(body.n not in (None, 1), "n", f"`n` is {body.n}; only 1 is supported, ask several times instead.")
    _bounds(body.max_tokens, "max_tokens", 1, 10_000_000)
    _bounds(body.temperature, "temperature", 0, 2)
    _bounds(body.top_p, "top_p", 0, 1)
    _bounds(body.top_k, "top_k", -1, 1_000_000)
    _bounds(body.min_p, "min_p", 0, 1)
    _bounds(body.presence_penalty, "presence_penalty", -2, 2)
    _bounds(body.frequency_penalty, "frequency_penalty", -2, 2)
    _bounds(body.seed, "seed", -(2**63), 2**63 - 1)
    _stops(body.stop)
    _biases(body.logit_bias or {})


def _bounds(value: float | None, name: str, low: float, high: float) -> None:
    # A NaN fails both comparisons, so the test is for what is allowed.
    if value is not None and not low <= value <= high:
        raise BadRequest(f"`{name}` is {value}; it must be between {low} and {high}.", param=name)


def _refuse(wrong: bool, name: str, message: str) -> None:
    if wrong:
        raise BadRequest(message, param=name)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    given = [stop] if isinstance(stop, str) else stop or []
    if len(given) > MAX_STOPS:
        raise BadRequest(f"`stop` has {len(given)} strings; at most {MAX_STOPS} are supported.", param="stop")
    if any(len(one) > MAX_STOP_CHARACTERS for one in given):
        raise BadRequest(f"A stop string is longer than {MAX_STOP_CHARACTERS} characters.", param="stop")
    return tuple(one for one in given if one)


def _biases(given: dict[str, float]) -> tuple[tuple[int, int], ...]:
    if len(given) > MAX_LOGIT_BIASES:
        raise BadRequest(
            f"`logit_bias` has {len(given)} entries, at most {MAX_LOGIT_BIASES}.", param="logit_bias"
        )
    biases = []
    for token, bias in given.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10):
            raise BadRequest(
                f"`logit_bias` has the key {token[:20]!r}; keys are token ids.", param="logit_bias"
            )
        _bounds(bias, "logit_bias", -100, 100)
        biases.append((int(token), _millionths(bias)))
    return tuple(sorted(biases))


def _millionths(value: float) -> int:
    return round(value * MILLION)


def _message(number: int, message: dict[str, Any]) -> dict[str, str]:
    place = f"messages[{number}]"
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise BadRequest(f"`{place}.role` is missing.", param=f"{place}.role")
    if role in ("tool", "function") or message.get("tool_calls"):
        raise BadRequest("Tools are not supported yet.", param=place)
    role = "system" if role == "developer" else role
    return {"role": role, "content": _content(message.get("content"), f"{place}.content")}


def _content(content: Any, place: str) -> str:
    match content:
        case str():
            return content
        case None:
            return ""
        case list():
            return "".join(_part(part, place) for part in content)
        case _:
            raise BadRequest(f"`{place}` must be a string or a list of parts.", param=place)


def _part(part: Any, place: str) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str(kind)}:
            raise BadRequest(
                f"`{place}` has a part of type {kind[:40]!r}; only text is supported.", param=place
            )
        case _:
            raise BadRequest(f"`{place}` has a part that is not {{type: 'text', text: …}}.", param=place)


def _invalid(message: str) -> BadRequest:
    """Return msgspec's finding (`Expected `int` … - at `$.max_tokens``) with the field as `param`."""
    _, _, place = message.partition(" - at `$")
    missing = message.partition("missing required field `")[2].partition("`")[0]
    name = missing or place.strip("`").lstrip(".") or None
    return BadRequest(f"The request is not valid: {message.replace('$.', '')}.", param=name)

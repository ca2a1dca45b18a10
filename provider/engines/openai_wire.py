"""What is said to an OpenAI-compatible server, and what its stream says back."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientResponse
from aiohttp.http_exceptions import LineTooLong

from provider.engines.base import EngineBroken, EngineJob, EngineRefused
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.parameters import MILLION, Parameters

MAX_STOPS = 4
"""OpenAI's limit, which many servers enforce."""
MAX_LINE_BYTES: Final = 512 * 1024
"""What one chunk of a server's stream may have; one with many likelihoods has some tens of thousands."""
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""What a server's list of models may have."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of a server's stream; `finish` is its finish_reason, `usage` (prompt, output) tokens."""

    text: str = ""
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop: str = ""
    usage: tuple[int, int] | None = None


def found_key(variable: str | None, file: Path | str | None) -> str | None:
    """Return the API key that is in a variable or a file; None if neither is named.

    Raises EngineRefused if it is not there.
    """
    try:
        if variable:
            return os.environ[variable]
        return Path(file).expanduser().read_text().strip() if file else None
    except KeyError as error:
        raise EngineRefused("engine", f"{variable}, which should have the API key, is not set") from error
    except (OSError, UnicodeDecodeError) as error:
        raise EngineRefused("engine", f"there is no API key in {file}: {error}") from error


def one_token(model: str, prompt_ids: Sequence[int]) -> dict[str, Any]:
    """Return a completions request for one token, with which a server shows whether it returns ids."""
    return {
        "model": model,
        "prompt": [*prompt_ids],
        "max_tokens": 1,
        "stream": True,
        "add_special_tokens": False,
        "return_token_ids": True,
    }


def request_by_ids(model: str, job: EngineJob, max_tokens: int) -> dict[str, Any]:
    """Return a completions request in token ids, as vLLM takes it; stop strings are the caller's to find."""
    body = _sampling(job.parameters, job.job_seed) | {
        "model": model,
        "prompt": [*job.prompt_ids, *job.resume_ids],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "add_special_tokens": False,
        "return_token_ids": True,
    }
    if job.top_logprobs >= 0:
        body |= {"logprobs": job.top_logprobs, "return_tokens_as_token_ids": True}
    return body


def request_by_text(model: str, job: EngineJob) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request in text: a conversation if the prompt is one, or a completion."""
    messages = _messages(job.prompt_text)
    body = _sampling(job.parameters, job.job_seed) | {
        "model": model,
        "max_tokens": job.parameters.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if job.parameters.stop:
        body["stop"] = list(job.parameters.stop[:MAX_STOPS])
    if messages is None:
        return "/completions", body | {"prompt": job.prompt_text}
    return "/chat/completions", body | {"messages": messages}


async def pieces(lines: AsyncIterable[bytes]) -> AsyncGenerator[Piece]:
    """Yield what a server-sent stream says, up to `[DONE]`.

    Raises EngineBroken for an error in the stream, nonsense, or an end without a finish reason.
    """
    has_finished = False
    rest = aiter(lines)
    while line := await _next_line(rest):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            break
        piece = _piece(data)
        has_finished = has_finished or piece.finish is not None
        yield piece
    if not has_finished:
        raise EngineBroken("engine", "the server's stream was cut off")


async def whole_body(response: ClientResponse) -> bytes:
    """Return a short answer's body. Raises EngineBroken if it is over MAX_BODY_BYTES."""
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise EngineBroken("engine", f"the server's answer is over {MAX_BODY_BYTES} bytes")
    return body


def listed_models(body: bytes) -> list[dict[str, Any]]:
    """Return a server's models. Raises EngineBroken for what is no list of models."""
    try:
        models = json.loads(body)["data"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise EngineBroken("engine", f"the server does not list its models: {body[:200]!r}") from error
    if not isinstance(models, list) or not all(isinstance(one, dict) for one in models):
        raise EngineBroken("engine", f"the server does not list its models: {body[:200]!r}")
    return models


async def _next_line(lines: AsyncIterator[bytes]) -> bytes:
    """Return the next line with its end; nothing when the stream is over. Raises EngineBroken."""
    try:
        return await anext(lines, b"")
    except (LineTooLong, ValueError) as error:
        raise EngineBroken("engine", "a line of the server's stream is too long") from error


def _sampling(parameters: Parameters, job_seed: bytes) -> dict[str, Any]:
    body: dict[str, Any] = {
        "temperature": parameters.temperature / MILLION,
        "top_p": parameters.top_p / MILLION,
        "seed": int.from_bytes(job_seed[:8], "big") >> 1,
    }
    # Only what departs from the defaults: strict servers refuse fields that OpenAI does not have.
    if parameters.top_k:
        body["top_k"] = parameters.top_k
    for name in ("min_p", "presence_penalty", "frequency_penalty"):
        if value := getattr(parameters, name):
            body[name] = value / MILLION
    if parameters.logit_bias:
        body["logit_bias"] = {str(token_id): bias / MILLION for token_id, bias in parameters.logit_bias}
    return body


def _messages(prompt_text: str) -> list[dict[str, str]] | None:
    """Return the conversation that MESSAGES_TEMPLATE rendered, or None for a text that is just a prompt."""
    if not prompt_text.startswith("["):
        return None
    try:
        messages = json.loads(prompt_text)
    except (ValueError, RecursionError):
        return None
    is_conversation = isinstance(messages, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and isinstance(one.get("content"), str)
        for one in messages
    )
    return messages if is_conversation and messages else None


def _piece(data: bytes) -> Piece:
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise EngineBroken("engine", f"the server failed: {chunk['error']}")
        choices = chunk.get("choices") or [{}]
        choice = choices[0]
        delta = choice.get("delta") or {}
        stop = choice.get("stop_reason")
        return Piece(
            text=choice.get("text") or delta.get("content") or "",
            ids=tuple(int(one) for one in choice.get("token_ids") or ()),
            logprobs=_logprobs(choice.get("logprobs")),
            finish=choice.get("finish_reason"),
            stop=stop if isinstance(stop, str) else "",
            usage=_usage(chunk.get("usage")),
        )
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise EngineBroken("engine", f"the server's stream makes no sense: {data[:200]!r}") from error


def _usage(usage: dict[str, Any] | None) -> tuple[int, int] | None:
    if not usage:
        return None
    return int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)


def _logprobs(given: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """Return the likelihoods of a chunk whose tokens are written as `token_id:17`."""
    if not given or "token_logprobs" not in given:
        return ()
    tops: Sequence[dict[str, float] | None] = given.get("top_logprobs") or [None] * len(
        given["token_logprobs"]
    )
    return tuple(
        TokenLogprob(
            float(logprob or 0.0),
            tuple(
                (int(token.removeprefix("token_id:")), float(value)) for token, value in (top or {}).items()
            ),
        )
        for logprob, top in zip(given["token_logprobs"], tops, strict=True)
    )

"""The SDK: `Client` and `AsyncClient`.

    from tallystick.client import Client

    client = Client("http://127.0.0.1:8080/v1", "tsk_…", wallet_key="0x…")
    for piece in (stream := client.stream("smollm2", "Name three rivers.")):
        print(piece, end="", flush=True)
    print(stream.answer.charge, stream.answer.consent)

With a wallet key the client checks the receipts of each answer, holds them against what was asked for and
against what it may sign for in one answer, and signs a consent to what they add up to. Without one it is an
ordinary client of the API.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from tallystick.consents import key_from
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import parse_usd
from tallystick.sdk.answers import Answer, AnswerBuilder, chat_body
from tallystick.sdk.core import Call, Core, Request, Response, fetch, raise_for_status
from tallystick.sdk.reading import Body, Lines

T = TypeVar("T")
TIMEOUT = httpx.Timeout(10.0, read=600.0)
MAX_CHARGE_USD = "1"


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}


def _core(
    base_url: str,
    wallet_key: SigningKey | bytes | str | None,
    account: str | None,
    directory: Path | None,
    max_charge_usd: str,
) -> Core:
    return Core(
        base_url,
        key=None if wallet_key is None else key_from(wallet_key),
        account=account,
        consent_directory=directory,
        max_charge=parse_usd(max_charge_usd),
    )


def _response(given: httpx.Response, body: Body) -> Response:
    try:
        said = json.loads(body.whole())
    except (ValueError, RecursionError):
        said = None
    return Response(given.status_code, {name.lower(): value for name, value in given.headers.items()}, said)


def _read(given: httpx.Response) -> Response:
    body = Body()
    for piece in given.iter_bytes():
        body.add(piece)
    return _response(given, body)


async def _aread(given: httpx.Response) -> Response:
    body = Body()
    async for piece in given.aiter_bytes():
        body.add(piece)
    return _response(given, body)


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path.lstrip("/"),
        "json": request.body,
        "params": list(request.params),
    }


class Client:
    """A blocking client of one coordinator. `base_url` ends in `/v1`.

    `account` is needed only when `wallet_key` is a consent key of another address. `max_charge_usd` is the
    most that is signed for in one answer: prices are the coordinator's word, and this is yours.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        wallet_key: SigningKey | bytes | str | None = None,
        account: str | None = None,
        consent_directory: Path | None = None,
        max_charge_usd: str = MAX_CHARGE_USD,
    ) -> None:
        self._core = _core(base_url, wallet_key, account, consent_directory, max_charge_usd)
        self._http = httpx.Client(base_url=base_url, headers=_headers(api_key), timeout=TIMEOUT)

    def chat(self, model: str, messages: str | list[dict[str, Any]], **options: Any) -> Answer:
        """Return a whole answer. `options` are those of the OpenAI API.

        Raises TallystickError, and ReceiptRejected when the answer's receipts do not bear it out.
        """
        return self._run(self._core.chat(model, messages, options))

    def stream(self, model: str, messages: str | list[dict[str, Any]], **options: Any) -> "AnswerStream":
        """Return an iterator over the pieces of text; its `answer` is there when it has ended."""
        body = chat_body(model, messages, stream=True, options=options)
        return AnswerStream(self, body)

    def balance(self) -> dict[str, Any]:
        """Return the account's balance, and why and until when a part of it is not available."""
        return self._run(fetch(Request("GET", "/balance")))

    def models(self) -> list[dict[str, Any]]:
        """Return the models that can be asked for."""
        return self._run(fetch(Request("GET", "/models")))["data"]  # type: ignore[no-any-return]

    def get(self, path: str, **params: str) -> Any:
        """Return the JSON at `path`, below the base URL."""
        return self._run(fetch(Request("GET", path, params=tuple(params.items()))))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        try:
            request = next(call)
            while True:
                with self._http.stream(**_arguments(request)) as given:
                    response = _read(given)
                request = call.send(response)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


class AnswerStream:
    """Pieces of text as they come. After the last one `answer` holds the whole, with charge and receipts."""

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._builder = AnswerBuilder()

    @property
    def answer(self) -> Answer:
        """The answer. Raises Interrupted before the stream has come to its end."""
        return self._builder.close()

    def __iter__(self) -> Iterator[str]:
        with self._client._http.stream("POST", "chat/completions", json=self._body) as given:
            if given.status_code >= 300:
                failed = _read(given)
                raise_for_status(failed.status, failed.headers, failed.body)
            lines = Lines()
            for chunk in given.iter_bytes():
                yield from filter(None, map(self._builder.feed, lines.add(chunk)))
            if piece := self._builder.feed(lines.rest()):
                yield piece
        self._client._run(self._client._core.consent_to(self.answer, self._body))


class AsyncClient:
    """The same as `Client`, for asyncio."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        wallet_key: SigningKey | bytes | str | None = None,
        account: str | None = None,
        consent_directory: Path | None = None,
        max_charge_usd: str = MAX_CHARGE_USD,
    ) -> None:
        self._core = _core(base_url, wallet_key, account, consent_directory, max_charge_usd)
        self._http = httpx.AsyncClient(base_url=base_url, headers=_headers(api_key), timeout=TIMEOUT)

    async def chat(self, model: str, messages: str | list[dict[str, Any]], **options: Any) -> Answer:
        """Return a whole answer; see `Client.chat`."""
        return await self._run(self._core.chat(model, messages, options))

    def stream(self, model: str, messages: str | list[dict[str, Any]], **options: Any) -> "AsyncAnswerStream":
        """Return an asynchronous iterator over the pieces of text; see `Client.stream`."""
        body = chat_body(model, messages, stream=True, options=options)
        return AsyncAnswerStream(self, body)

    async def balance(self) -> dict[str, Any]:
        """Return the account's balance; see `Client.balance`."""
        return await self._run(fetch(Request("GET", "/balance")))

    async def models(self) -> list[dict[str, Any]]:
        """Return the models that can be asked for."""
        return (await self._run(fetch(Request("GET", "/models"))))["data"]  # type: ignore[no-any-return]

    async def get(self, path: str, **params: str) -> Any:
        """Return the JSON at `path`, below the base URL."""
        return await self._run(fetch(Request("GET", path, params=tuple(params.items()))))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        try:
            request = next(call)
            while True:
                async with self._http.stream(**_arguments(request)) as given:
                    response = await _aread(given)
                request = call.send(response)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


class AsyncAnswerStream:
    """The same as `AnswerStream`, for asyncio."""

    def __init__(self, client: AsyncClient, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._builder = AnswerBuilder()

    @property
    def answer(self) -> Answer:
        """The answer. Raises Interrupted before the stream has come to its end."""
        return self._builder.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        async with self._client._http.stream("POST", "chat/completions", json=self._body) as given:
            if given.status_code >= 300:
                failed = await _aread(given)
                raise_for_status(failed.status, failed.headers, failed.body)
            lines = Lines()
            async for chunk in given.aiter_bytes():
                for piece in filter(None, map(self._builder.feed, lines.add(chunk))):
                    yield piece
            if piece := self._builder.feed(lines.rest()):
                yield piece
        await self._client._run(self._client._core.consent_to(self.answer, self._body))

"""The SDK, both colours, against a coordinator on a socket that is honest or not."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tallystick.client import AsyncClient, Client
from tallystick.consents import ReceiptRejected
from tallystick.protocol.eip712 import Domain, consent_digest, receipt_digest
from tallystick.protocol.ids import to_hex
from tallystick.protocol.keys import recover
from tallystick.protocol.receipts import SignedReceipt, receipt_charge
from tallystick.protocol.rendering import receipt_to_json
from tallystick.sdk.answers import Answer, Interrupted, TallystickError
from tallystick.sdk.pins import MarketChanged, check_market
from tests.support.hubs import listening
from tests.support.nodes import DOMAIN, key_of
from tests.unit.tallystick.test_consents import CONSUMER, JOB, a_receipt

TEXT = ["Three ", "rivers: ", "", "Rhine – Elbe"]
MANY = 100
"""Pieces of what is too long; a megabyte of them."""
Ask = Callable[[str, Path], "asyncio.Future[Answer]"]


@dataclass
class Desk:
    """What the coordinator has, says and hears."""

    receipts: list[SignedReceipt] = field(default_factory=lambda: [a_receipt()])
    charge: int | None = None
    tokens: tuple[int, int] = (20, 100)
    ending: str = "whole"
    status: int = 200
    shown: SignedReceipt | None = None
    consents: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    deaf: bool = False
    has_more: bool = False
    refusal: tuple[int, dict[str, Any], dict[str, str]] | None = None

    def proof(self) -> dict[str, Any]:
        """Return the extra part of an answer."""
        total = sum(receipt_charge(one.receipt) for one in self.receipts)
        return {
            "job_id": to_hex(JOB),
            "charge_nano_usd": str(total if self.charge is None else self.charge),
            "parts": [
                {"receipt": to_hex(receipt_digest(DOMAIN, one.receipt)), "node": one.receipt.node}
                for one in self.receipts
            ],
        }

    @property
    def usage(self) -> dict[str, int]:
        """The tokens that the answer says."""
        return {"prompt_tokens": self.tokens[0], "completion_tokens": self.tokens[1]}

    async def chat(self, request: Request) -> Response:
        """Answer, whole or as a stream."""
        body = await request.json()
        self.asked.append(body | {"authorization": request.headers["authorization"]})
        if self.ending == "one body":
            return StreamingResponse(itertools.repeat(b" " * 10_000, MANY), self.status)
        if self.refusal is not None:
            status, error, headers = self.refusal
            return JSONResponse({"error": error}, status, headers)
        if body.get("stream"):
            return StreamingResponse(self.lines(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(TEXT)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse(
            {"model": "m", "choices": choices, "usage": self.usage, "tallystick": self.proof()}
        )

    async def lines(self) -> AsyncIterator[str]:
        """Give the events of a stream up to the ending that was chosen."""
        yield ": keep-alive\n\n"
        for text in TEXT:
            yield _event(
                choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], usage=None
            )
        if self.ending == "cut":
            return
        for _ in range(MANY):
            if self.ending == "one line":
                yield "data: " + "x" * 10_000
            if self.ending == "one text":
                yield _event(choices=[{"index": 0, "delta": {"content": "x" * 10_000}}])
        if self.ending == "error":
            yield _event(error={"message": "all nodes failed", "code": "nodes_failed"})
            return
        yield _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None)
        if self.ending != "unproven":
            yield _event(choices=[], usage=self.usage, tallystick=self.proof())
        yield "data: [DONE]\n\n"

    async def receipt(self, request: Request) -> Response:
        """Show a receipt, or another one."""
        wanted = request.path_params["id"]
        found = [one for one in self.receipts if to_hex(receipt_digest(DOMAIN, one.receipt)) == wanted]
        return JSONResponse(receipt_to_json(self.shown or found[0]))

    async def listed(self, _: Request) -> Response:
        """Show all receipts."""
        data = [
            {"id": to_hex(receipt_digest(DOMAIN, one.receipt)), **receipt_to_json(one)}
            for one in self.receipts
        ]
        return JSONResponse({"data": data, "has_more": self.has_more})

    async def consent(self, request: Request) -> Response:
        """Hear a consent."""
        if self.deaf:
            return Response("bad gateway", 502)
        self.consents.append(await request.json())
        return JSONResponse({"consented": self.consents[-1]["spent"]})

    async def market(self, request: Request) -> Response:
        """Say where the contracts are."""
        contracts = dict.fromkeys(("ledger", "stake", "token"), DOMAIN.contract)
        told = {"chain_id": DOMAIN.chain_id, "contracts": contracts, "coordinator": key_of(9).address}
        return JSONResponse(told)

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/receipts/{id}", self.receipt),
                Route("/v1/receipts", self.listed),
                Route("/v1/consents", self.consent, methods=["POST"]),
                Route("/v1/market", self.market),
            ]
        )


def _event(**fields: Any) -> str:
    return f"data: {json.dumps({'model': 'm', **fields})}\n\n"


@contextlib.asynccontextmanager
async def opened(desk: Desk) -> AsyncIterator[str]:
    """Serve the desk; yields the base URL."""
    async with listening(desk.app()) as url:
        yield f"{url}/v1"


def _options(folder: Path, most: str) -> dict[str, Any]:
    return {"wallet_key": CONSUMER, "consent_directory": folder, "max_charge_usd": most}


async def blocking(
    url: str, folder: Path, *, stream: bool, wallet: bool = True, most: str = "1", **asked: Any
) -> Answer:
    """Ask with the blocking client, in a thread; `asked` is in the request."""

    def ask() -> Answer:
        options = _options(folder, most) if wallet else {}
        with Client(url, "tsk_key", **options) as client:
            if not stream:
                return client.chat("m", "Name three rivers.", max_tokens=100, **asked)
            answering = client.stream("m", "Name three rivers.", max_tokens=100, **asked)
            pieces = list(answering)
            assert "".join(pieces) == answering.answer.text
            return answering.answer

    return await asyncio.to_thread(ask)


async def asynchronous(
    url: str, folder: Path, *, stream: bool, wallet: bool = True, most: str = "1", **asked: Any
) -> Answer:
    """Ask with the asynchronous client; `asked` is in the request."""
    options = _options(folder, most) if wallet else {}
    async with AsyncClient(url, "tsk_key", **options) as client:
        if not stream:
            return await client.chat("m", "Name three rivers.", max_tokens=100, **asked)
        answering = client.stream("m", "Name three rivers.", max_tokens=100, **asked)
        pieces = [piece async for piece in answering]
        assert "".join(pieces) == answering.answer.text
        return answering.answer


COLOURS = pytest.mark.parametrize("ask", [blocking, asynchronous])
WAYS = pytest.mark.parametrize("stream", [False, True])


@COLOURS
@WAYS
async def test_an_answer_is_checked_and_consented_to(ask: Any, stream: bool, tmp_path: Path) -> None:
    desk = Desk()
    async with opened(desk) as url:
        answer = await ask(url, tmp_path, stream=stream)
        again = await ask(url, tmp_path, stream=stream)
    assert (answer.text, answer.finish_reason) == ("Three rivers: Rhine – Elbe", "stop")
    assert (answer.tokens, answer.charge) == (120, 36_000)
    assert answer.nodes == (key_of(1).address,)
    assert answer.consent.spent == 36_000
    assert again.consent.spent == 36_000  # the same receipt once more
    heard = desk.consents[0]
    digest = consent_digest(DOMAIN, CONSUMER.address, answer.consent.spent)
    assert recover(digest, bytes.fromhex(heard["signature"][2:])) == CONSUMER.address
    assert desk.asked[0]["messages"] == [{"role": "user", "content": "Name three rivers."}]
    assert (desk.asked[0]["max_tokens"], desk.asked[0]["authorization"]) == (100, "Bearer tsk_key")


@COLOURS
@WAYS
async def test_without_a_wallet_nothing_is_signed(ask: Any, stream: bool, tmp_path: Path) -> None:
    desk = Desk()
    async with opened(desk) as url:
        answer = await ask(url, tmp_path, stream=stream, wallet=False)
    assert answer.consent is None
    assert desk.consents == []


@COLOURS
@WAYS
@pytest.mark.parametrize(
    "lie",
    [
        {"charge": 36_001},
        {"tokens": (20, 101)},
        {"receipts": [a_receipt(account=key_of(9).address)]},
        {"receipts": [a_receipt(signer=key_of(9))]},
        {"receipts": [a_receipt(2)]},
    ],
)
async def test_no_consent_is_signed_for_an_answer_that_its_receipts_do_not_bear_out(
    ask: Any, stream: bool, lie: dict[str, Any], tmp_path: Path
) -> None:
    desk = Desk(**lie)
    async with opened(desk) as url:
        with pytest.raises(ReceiptRejected):
            await ask(url, tmp_path, stream=stream)
    assert desk.consents == []


@COLOURS
@WAYS
@pytest.mark.parametrize(
    ("given", "asked", "said"),
    [
        ({"input_price": 10**7, "output_price": 10**7}, {}, r"costs \$1\.20.*at most \$1\.00 an answer"),
        ({}, {"most": "0.000035999"}, r"costs \$0\.000036"),
        ({}, {"max_completion_tokens": 99}, "100 tokens of output are billed"),
        ({"prompt_tokens": 3_000}, {}, "3000 tokens of prompt are billed"),
        ({}, {"tallystick": {"max_output_price": "0.299"}}, r"output is billed at \$0\.30"),
        ({}, {"tallystick": {"max_input_price": "0.2"}}, r"input is billed at \$0\.30"),
    ],
)
async def test_no_consent_is_signed_for_more_than_was_asked_for(
    ask: Any, stream: bool, given: dict[str, int], asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    receipt = a_receipt(**given)
    desk = Desk(receipts=[receipt], tokens=(receipt.receipt.prompt_tokens, receipt.receipt.output_tokens))
    async with opened(desk) as url:
        with pytest.raises(ReceiptRejected, match=said):
            await ask(url, tmp_path, stream=stream, **asked)
    assert desk.consents == []


@COLOURS
async def test_a_market_that_names_other_contracts_than_before_gets_no_signature(
    ask: Any, tmp_path: Path
) -> None:
    desk, before = Desk(), Domain(10, key_of(60).address)
    async with opened(desk) as url:
        check_market(tmp_path / "ledgers.json", url + "/", before)
        with pytest.raises(MarketChanged, match=f"{before.contract} of chain 10 and says now"):
            await ask(url, tmp_path, stream=False)
    assert desk.consents == []


def test_a_local_chain_is_made_anew_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledgers.json"
    for domain in (DOMAIN, Domain(31337, key_of(60).address), Domain(10, key_of(61).address)):
        check_market(path, "http://127.0.0.1/v1", domain)
        check_market(path, "http://127.0.0.1/v1", domain)
    with pytest.raises(MarketChanged):
        check_market(path, "http://127.0.0.1/v1", DOMAIN)
    check_market(path, "http://127.0.0.2/v1", DOMAIN)


@COLOURS
async def test_another_receipt_than_the_one_that_was_named_is_noticed(ask: Any, tmp_path: Path) -> None:
    desk = Desk(shown=a_receipt(output_tokens=99))
    async with opened(desk) as url:
        with pytest.raises(TallystickError, match="another receipt"):
            await ask(url, tmp_path, stream=False)
    assert desk.consents == []


@COLOURS
@pytest.mark.parametrize(
    ("ending", "said"), [("cut", "cut before its end"), ("error", "all nodes failed"), ("unproven", "proof")]
)
async def test_a_stream_without_its_end_is_an_interruption_and_not_an_answer(
    ask: Any, ending: str, said: str, tmp_path: Path
) -> None:
    desk = Desk(ending=ending)
    async with opened(desk) as url:
        with pytest.raises(Interrupted, match=said):
            await ask(url, tmp_path, stream=True)
    assert desk.consents == []


@COLOURS
@WAYS
async def test_a_refusal_keeps_the_coordinators_words(ask: Any, stream: bool, tmp_path: Path) -> None:
    error = {"message": "This request can cost $0.01; $0.00 is available.", "code": "insufficient_quota"}
    desk = Desk(refusal=(402, error, {"retry-after": "2"}))
    async with opened(desk) as url:
        with pytest.raises(TallystickError, match=r"can cost \$0\.01") as refused:
            await ask(url, tmp_path, stream=stream)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (
        402,
        "insufficient_quota",
        2.0,
    )


@COLOURS
async def test_a_consent_that_cannot_be_handed_in_now_is_part_of_the_next_one(
    ask: Any, tmp_path: Path
) -> None:
    desk = Desk(deaf=True)
    async with opened(desk) as url:
        assert (await ask(url, tmp_path, stream=False)).text
        desk.deaf = False
        desk.receipts = [a_receipt(output_tokens=0)]
        desk.tokens = (20, 0)
        await ask(url, tmp_path, stream=False)
    assert [one["spent"] for one in desk.consents] == [str(36_000 + 20 * 300)]


@COLOURS
@pytest.mark.parametrize(
    ("ending", "status", "stream", "said"),
    [
        ("one line", 200, True, "a line of over"),
        ("one text", 200, True, "the answer is over"),
        ("one body", 200, False, "the coordinator's answer is over"),
        ("one body", 500, True, "the coordinator's answer is over"),
    ],
)
async def test_an_answer_without_end_is_not_read_to_it(
    ask: Any,
    ending: str,
    status: int,
    stream: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("reading.MAX_LINE_BYTES", "reading.MAX_BODY_BYTES", "answers.MAX_TEXT"):
        monkeypatch.setattr(f"tallystick.sdk.{name}", 200_000)
    async with opened(Desk(ending=ending, status=status)) as url:
        with pytest.raises(TallystickError, match=said):
            await ask(url, tmp_path, stream=stream)

"""Every call of the SDK as a generator: it yields requests, is sent the responses, and returns the result.

Two small drivers in `tallystick.client`, one blocking and one asynchronous, run the same generators.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tallystick.consents import Consent, ConsentBook, check_answer, default_directory
from tallystick.protocol.eip712 import Domain, receipt_digest
from tallystick.protocol.ids import Address, to_address, to_hex
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd
from tallystick.protocol.receipts import SignedReceipt
from tallystick.protocol.rendering import receipt_from_json
from tallystick.sdk.answers import Answer, TallystickError, answer_from_json, chat_body
from tallystick.sdk.bounds import Bounds
from tallystick.sdk.pins import check_market

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP call, relative to the base URL."""

    method: str
    path: str
    body: Any = None
    params: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """Its outcome: a status, headers in lower case, and the decoded JSON."""

    status: int
    headers: dict[str, str]
    body: Any


Call = Generator[Request, Response, T]


def fetch(request: Request) -> Call[Any]:
    """Make one request and return its JSON. Raises TallystickError for any status over 299."""
    response = yield request
    raise_for_status(response.status, response.headers, response.body)
    return response.body


def raise_for_status(status: int, headers: dict[str, str], body: Any) -> None:
    """Raise TallystickError with the coordinator's own words unless `status` means success."""
    if status < 300:
        return
    error = body.get("error") if isinstance(body, dict) else None
    raise TallystickError(status, error or f"HTTP {status}", retry_after=_seconds(headers.get("retry-after")))


def _seconds(text: str | None) -> float | None:
    """Return a Retry-After in seconds; None for none, or for one that is a date."""
    return float(text) if text is not None and text.replace(".", "", 1).isdecimal() else None


class Core:
    """What both clients know: where, who, the wallet key, if there is one, and for how much it signs."""

    def __init__(
        self,
        base_url: str,
        *,
        key: SigningKey | None,
        account: str | None,
        consent_directory: Path | None,
        max_charge: NanoUsd,
    ) -> None:
        self.key = key
        self.account: Address | None = None
        if key is not None:
            self.account = to_address(account) if account else key.address
        self._base_url = base_url
        self._directory = consent_directory or default_directory()
        self._max_charge = max_charge
        self._book: ConsentBook | None = None

    def chat(self, model: str, messages: Any, options: dict[str, Any]) -> Call[Answer]:
        """Return the answer to a chat, with a consent signed for it when there is a key."""
        body = chat_body(model, messages, stream=False, options=options)
        given = yield from fetch(Request("POST", "/chat/completions", body))
        answer = answer_from_json(given)
        yield from self.consent_to(answer, body)
        return answer

    def consent_to(self, answer: Answer, body: dict[str, Any]) -> Call[Consent | None]:
        """Check the answer's receipts, sign for them and hand the consent in; None without a key.

        Raises ReceiptRejected if a receipt is not what the answer said, or more than `body` asked for.
        """
        if self.key is None or self.account is None or not answer.receipt_ids:
            return None
        book = yield from self.book()
        receipts = yield from self.receipts_of(answer)
        check_answer(
            receipts,
            domain=book.domain,
            account=self.account,
            job_id=answer.job_id,
            charge=answer.charge,
            tokens=answer.tokens,
        )
        Bounds.of(body, self._max_charge).check(receipts)
        answer.consent = book.sign_for(receipts)
        try:
            yield from fetch(Request("POST", "/consents", answer.consent.to_json()))
        except TallystickError as error:
            # The answer is here and right; the next consent is cumulative and says this one's sum as well.
            if error.status < 500:
                raise
        return answer.consent

    def receipts_of(self, answer: Answer) -> Call[list[SignedReceipt]]:
        """Return the signed receipts of an answer; each is the one that its id names.

        Raises TallystickError if the coordinator gives another one.
        """
        book = yield from self.book()
        receipts = []
        for receipt_id in answer.receipt_ids:
            body = yield from fetch(Request("GET", f"/receipts/{receipt_id}"))
            signed = receipt_from_json(body)
            if to_hex(receipt_digest(book.domain, signed.receipt)) != receipt_id:
                raise TallystickError(0, f"the coordinator gave another receipt than {receipt_id}")
            receipts.append(signed)
        return receipts

    def book(self) -> Call[ConsentBook]:
        """Return the account's consent book, asking once which chain and contract the market is on.

        Raises ValueError without a wallet key, MarketChanged if it was on another one before.
        """
        if self._book is None:
            if self.key is None or self.account is None:
                raise ValueError("this client has no wallet key, so it signs no consents")
            market = yield from fetch(Request("GET", "/market"))
            domain = Domain(
                chain_id=int(market["chain_id"]), contract=to_address(market["contracts"]["ledger"])
            )
            check_market(self._directory / "ledgers.json", self._base_url, domain)
            self._book = ConsentBook(
                domain=domain, account=self.account, key=self.key, directory=self._directory
            )
        return self._book

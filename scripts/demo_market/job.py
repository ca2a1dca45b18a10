"""The main job: two streamed answers, an epoch, a claim; every figure recomputed from what can be proved."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from rich.console import Console

from scripts.demo_market.chainside import OnChain, look, transaction
from scripts.demo_market.market import Market, provider_options
from scripts.demo_market.processes import Processes, together
from tallystick.client import Client
from tallystick.commands.credentials import load_wallet

QUESTIONS = ("Name three rivers in Europe.", "What is a tally stick?")
MAX_TOKENS = 40


@dataclass
class Spoken:
    """An answer, and what was said about its price."""

    client: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    charge: int
    receipts: list[str]


@dataclass
class Check:
    """Something that must hold, with the figures."""

    what: str
    held: bool
    detail: str


@dataclass
class Result:
    """What happened. `before` and `after` are readings of the chain by address."""

    consumer: str
    answers: list[Spoken]
    receipts: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    before: dict[str, OnChain]
    after: dict[str, OnChain]
    claims: list[dict[str, Any]]
    consent: int
    checks: list[Check] = field(default_factory=list)


def do_the_job(market: Market, processes: Processes, console: Console) -> Result:
    """Ask twice, wait for the epoch, claim, and check everything."""
    operators = [provider["operator"] for provider in market.providers]
    before = look(market, [market.consumer, *operators])
    answers = [ask_with_openai(market, console), ask_with_sdk(market, console)]
    consent = _consented(market)
    receipt_ids = [one for answer in answers for one in answer.receipts]
    with console.status("Waiting for the end of the epoch, and for its settlement on the chain …"):
        receipts = processes.wait_for("settlement", lambda: _settled(market, receipt_ids), 240)
        processes.wait_for("the charge row", lambda: _charged(market, before, answers), 240)
    epochs = _epochs(market, receipts)
    credited = look(market, operators)
    with console.status("The providers claim what they earned …"):
        claims = together(
            ["provider", "claim", "--yes", *provider_options(provider)]
            for provider in market.providers
            if credited[provider["operator"]].earned - credited[provider["operator"]].claimed >= 1000
        )
    result = Result(
        consumer=market.consumer,
        answers=answers,
        receipts=receipts,
        epochs=epochs,
        before=before,
        after=look(market, [market.consumer, *operators]),
        claims=claims,
        consent=consent,
    )
    result.checks = [*_receipt_checks(market, receipt_ids), *_money_checks(market, result)]
    return result


def ask_with_openai(market: Market, console: Console) -> Spoken:
    """Stream an answer through the official OpenAI client."""
    client = OpenAI(base_url=market.base_url, api_key=market.api_key)
    console.print(f"\n[bold]openai client:[/bold] {QUESTIONS[0]}")
    stream = client.chat.completions.create(
        model=market.model,
        messages=[{"role": "user", "content": QUESTIONS[0]}],
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces: list[str] = []
    proof: dict[str, Any] = {}
    usage = None
    for chunk in stream:
        proof = (chunk.model_extra or {}).get("tallystick") or proof
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            console.print(pieces[-1], end="", style="cyan", markup=False)
    console.print()
    assert usage is not None, "the stream had no usage chunk"
    return Spoken(
        "openai",
        "".join(pieces),
        usage.prompt_tokens,
        usage.completion_tokens,
        int(proof["charge_nano_usd"]),
        [part["receipt"] for part in proof["parts"]],
    )


def ask_with_sdk(market: Market, console: Console) -> Spoken:
    """Stream an answer through the Tallystick SDK, which checks the receipts and signs a consent."""
    console.print(f"\n[bold]Tallystick SDK:[/bold] {QUESTIONS[1]}")
    with Client(
        market.base_url, market.api_key, wallet_key=_secret(market), consent_directory=_books(market)
    ) as client:
        stream = client.stream(market.model, QUESTIONS[1], max_tokens=MAX_TOKENS, seed=7)
        for piece in stream:
            console.print(piece, end="", style="cyan", markup=False)
        answer = stream.answer
    console.print()
    return Spoken(
        "tallystick",
        answer.text,
        answer.prompt_tokens,
        answer.completion_tokens,
        answer.charge,
        list(answer.receipt_ids),
    )


def _secret(market: Market) -> bytes:
    os.environ.update(market.environment())
    return load_wallet(market.passphrase)


def _books(market: Market) -> Path:
    return Path(market.consumer_home) / "consents"


def _consented(market: Market) -> int:
    return int(_get(market, "/balance")["consented_nano_usd"])


def _get(market: Market, path: str) -> Any:
    headers = {"Authorization": f"Bearer {market.api_key}"}
    return httpx.get(market.base_url + path, headers=headers, timeout=30).raise_for_status().json()


def _settled(market: Market, receipt_ids: list[str]) -> list[dict[str, Any]] | None:
    found = [_get(market, f"/receipts/{one}") for one in receipt_ids]
    return found if all(one["status"] == "settled" and one.get("inclusion") for one in found) else None


def _charged(market: Market, before: dict[str, OnChain], answers: list[Spoken]) -> bool | None:
    now = look(market, [market.consumer])[market.consumer]
    return True if now.spent - before[market.consumer].spent >= sum(one.charge for one in answers) else None


def _epochs(market: Market, receipts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    numbers = sorted({one["inclusion"]["epoch"] for one in receipts})
    return [_get(market, f"/epochs/{number}") for number in numbers]


def _receipt_checks(market: Market, receipt_ids: list[str]) -> list[Check]:
    """Let `tallystick receipt verify` check each receipt against the chain."""
    checks = []
    found = together((["receipt", "verify", one] for one in receipt_ids), market.environment())
    for receipt_id, told in zip(receipt_ids, found, strict=True):
        done = ", ".join(check["what"] for check in told["checks"] if check["held"])
        checks.append(Check(f"receipt {receipt_id[:10]}…", told["held"] and not told["open"], done))
    return checks


def _money_checks(market: Market, result: Result) -> list[Check]:
    """Recompute the money from the receipts' tokens and prices, and compare it with the chain."""
    charges, fees, earned = 0, 0, {provider["operator"]: 0 for provider in market.providers}
    owner_of = {provider["node"]: provider["operator"] for provider in market.providers}
    for one in result.receipts:
        receipt = one["receipt"]
        charge = receipt["prompt_tokens"] * int(receipt["input_price"]) + receipt["output_tokens"] * int(
            receipt["output_price"]
        )
        fee = -(-charge * receipt["fee_bps"] // 10_000)
        charges, fees = charges + charge, fees + fee
        earned[owner_of[receipt["node"]]] += charge - fee
    consumer = result.consumer
    before, after = result.before, result.after
    spent = after[consumer].spent - before[consumer].spent
    paid = before[consumer].balance - after[consumer].balance
    checks = [
        Check("answers", all(one.text for one in result.answers), "both clients got text"),
        Check(
            "charged as told",
            charges == sum(one.charge for one in result.answers),
            f"tokens × price = {charges}",
        ),
        Check(
            "charged on chain",
            spent == paid == charges,
            f"spent {spent}, balance down by {paid}, receipts {charges}",
        ),
    ]
    for operator, amount in earned.items():
        credited = after[operator].earned - before[operator].earned
        checks.append(
            Check(
                f"operator {operator[:10]}…",
                credited == amount,
                f"credited {credited}, receipts less fee {amount}",
            )
        )
    total = sum(earned.values())
    checks.append(
        Check("parts add up", charges == total + fees, f"{charges} = {total} to operators + {fees} fee")
    )
    for claim in result.claims:
        operator = claim["operator"]
        gained = after[operator].dollars - before[operator].dollars
        checks.append(
            Check(
                f"claim {operator[:10]}…", gained == int(claim["paid_nano_usd"]) > 0, f"wallet up by {gained}"
            )
        )
    sdk_charge = result.answers[1].charge
    checks.append(
        Check(
            "consent",
            result.consent >= sdk_charge,
            f"signed {result.consent}, the SDK's own answer cost {sdk_charge}",
        )
    )
    return checks + _epoch_checks(market, result)


def _epoch_checks(market: Market, result: Result) -> list[Check]:
    checks = []
    for epoch in result.epochs:
        mined = transaction(market, epoch["transaction"])
        detail = (
            f"transaction {epoch['transaction'][:12]}… in block {mined['block']}, {mined['gas_used']} gas"
        )
        checks.append(
            Check(
                f"epoch {epoch['epoch']}",
                mined["succeeded"] and mined["gas_used"] == epoch["gas_used"],
                detail,
            )
        )
    return checks

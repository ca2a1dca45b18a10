"""A wallet's money: deposits, rights, consents, and what is where."""

import asyncio
import json
import secrets
import time
from typing import Annotated, Any

import typer

from tallystick.commands.account.open_ import PassphraseFile
from tallystick.commands.console import (
    AsJson,
    CommandFailed,
    dollars,
    errors,
    facts,
    foreseen,
    short,
    show,
)
from tallystick.commands.credentials import home, load_wallet, passphrase
from tallystick.commands.market import Api, MarketInfo, OnChain, on_chain
from tallystick.consents import ConsentBook, ReceiptRejected, check_receipt, default_directory
from tallystick.evm import Call, Contract, EvmError, Mined, Wallet
from tallystick.permits import NoPermits, sign_permit
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd, format_usd, from_units, parse_usd, to_units_down
from tallystick.protocol.receipts import receipt_charge
from tallystick.protocol.rendering import receipt_from_json
from tallystick.sdk.answers import TallystickError

app = typer.Typer()
PERMIT_SECONDS = 1800
GAS_ON_LOCAL_CHAIN = 10**18
ACCOUNT_FIELDS = ("balance", "spent", "authorized", "earned")
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")]
Amount = Annotated[str, typer.Argument(help="Dollars, like 5 or 0.25.")]


@app.command("balance")
@foreseen(TallystickError)
def balance(as_json: AsJson = False) -> None:
    """Show what is deposited, spent, held and available, and what releases the rest, and when.

    Example: tallystick account balance
    """
    show(Api().call("GET", "/balance"), as_json, _balance)


@app.command("deposit")
@foreseen(TallystickError, EvmError, ValueError)
def deposit(
    amount: Amount,
    authorize: Annotated[
        str,
        typer.Option(
            help="Authorize this many dollars more to be charged without a consent of yours for each."
        ),
    ] = "0",
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Deposit dollars: one transaction, no `approve` before, if the token has permits.

    Example: tallystick account deposit 5 --authorize 1
    """
    nano, right = parse_usd(amount), parse_usd(authorize)
    secret = load_wallet(passphrase(passphrase_file))

    async def act(chain: OnChain, wallet: Wallet, market: MarketInfo) -> dict[str, Any]:
        units = to_units_down(nano)
        await _check_dollars(chain.token, wallet.address, units)
        authorized = (await _account(chain.ledger, wallet.address))["authorized"]
        total = authorized + right if right else 0
        words = f"deposit ${format_usd(nano)}, authorize ${format_usd(right)} more"
        try:
            permit = await sign_permit(
                chain.token,
                secret,
                chain_id=market.chain_id,
                owner=wallet.address,
                spender=market.ledger,
                units=units,
                deadline=int(time.time()) + PERMIT_SECONDS,
            )
        except NoPermits:
            allow = chain.token.prepare("approve", market.ledger, units)
            await _send(wallet, allow, f"let the Ledger take ${format_usd(nano)}", yes)
            call = chain.ledger.prepare("deposit", units, total)
        else:
            call = chain.ledger.prepare(
                "depositWithPermit", units, total, permit.deadline, permit.v, permit.r, permit.s
            )
        mined = await _send(wallet, call, words, yes)
        return _sent(mined) | {
            "deposited_usd": format_usd(nano),
            **await _account(chain.ledger, wallet.address),
        }

    show(_on_chain(secret, act), as_json, _moved)


@app.command("authorize")
@foreseen(TallystickError, EvmError, ValueError)
def authorize(
    amount: Amount, yes: Yes = False, passphrase_file: PassphraseFile = None, as_json: AsJson = False
) -> None:
    """Authorize more dollars to be charged without a consent of yours for each answer. Rights only grow.

    Example: tallystick account authorize 1
    """
    more = parse_usd(amount)
    secret = load_wallet(passphrase(passphrase_file))

    async def act(chain: OnChain, wallet: Wallet, market: MarketInfo) -> dict[str, Any]:
        recorded = await _account(chain.ledger, wallet.address)
        base = max(recorded["authorized"], recorded["spent"])
        call = chain.ledger.prepare("authorize", base + more)
        mined = await _send(wallet, call, f"authorize ${format_usd(more)} more", yes)
        return _sent(mined) | await _account(chain.ledger, wallet.address)

    show(_on_chain(secret, act), as_json, _moved)


@app.command("add-consent-key")
@foreseen(TallystickError, EvmError, ValueError)
def add_consent_key(
    address: Annotated[str, typer.Argument(help="Address of the key that may sign consents.")],
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Let another key sign consents for this account. Keys are only added, never taken away.

    Example: tallystick account add-consent-key 0x…
    """
    key = to_address(address)
    secret = load_wallet(passphrase(passphrase_file))

    async def act(chain: OnChain, wallet: Wallet, market: MarketInfo) -> dict[str, Any]:
        call = chain.ledger.prepare("addConsentKey", key)
        mined = await _send(wallet, call, f"let {key} sign consents for {wallet.address}", yes)
        return _sent(mined) | {"consent_key": key}

    show(_on_chain(secret, act), as_json, facts)


@app.command("consent")
@foreseen(TallystickError, ReceiptRejected)
def consent(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before signing.")] = False,
    most: Annotated[int, typer.Option(help="How many receipts are read at most.")] = 100_000,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Check every receipt of this account and sign a consent to exactly what they add up to.

    The SDK does this as it goes; this is for answers that other clients asked for. It cannot know what they
    asked for, so look at the sum: prices and nodes are the coordinator's word.

    Example: tallystick account consent
    """
    api = Api()
    market = api.market()
    key = SigningKey(load_wallet(passphrase(passphrase_file)))
    book = ConsentBook(domain=market.domain, account=key.address, key=key, directory=default_directory())
    receipts = []
    for rendered in _all_receipts(api, most):
        signed = receipt_from_json(rendered)
        check_receipt(signed, domain=market.domain, account=key.address, job_id=signed.receipt.job_id)
        receipts.append(signed)
    fresh = book.uncounted(receipts)
    more = NanoUsd(sum(receipt_charge(one.receipt) for one in fresh))
    if more and not yes:
        errors.print(f"This signs for ${format_usd(more)} more, in {len(fresh)} new receipts.", markup=False)
        typer.confirm("Sign it?", abort=True, err=True)
    given = book.sign_for(fresh)
    api.call("POST", "/consents", given.to_json())
    told = {
        "receipts": len(receipts),
        "new_receipts": len(fresh),
        "more_usd": format_usd(more),
        "consented_nano_usd": str(given.spent),
        "consented_usd": format_usd(given.spent),
    }
    show(told, as_json, facts)


@app.command("receipts")
@foreseen(TallystickError)
def receipts(limit: Annotated[int, typer.Option(help="How many.")] = 20, as_json: AsJson = False) -> None:
    """List this account's receipts: tokens, charge, node, and whether they are settled.

    Example: tallystick account receipts --limit 5
    """
    show(Api().call("GET", "/receipts", limit=limit), as_json, _receipts)


@app.command("faucet")
@foreseen(TallystickError, EvmError, ValueError)
def faucet(
    address: Annotated[str, typer.Option(help="Who gets it; your wallet by default.")] = "",
    amount: Annotated[str, typer.Option(help="Test dollars.")] = "100",
    as_json: AsJson = False,
) -> None:
    """Get test dollars and gas money. Works on a local chain only.

    Example: tallystick account faucet --amount 20
    """
    to = to_address(address) if address else _own_address()
    market = Api().market()
    if not market.is_local:
        raise CommandFailed("this market is on a public chain; test dollars come from there")

    async def act() -> dict[str, Any]:
        async with on_chain(market) as chain:
            if await chain.connection.gas_money(to) < GAS_ON_LOCAL_CHAIN:
                await chain.connection.rpc("anvil_setBalance", to, hex(GAS_ON_LOCAL_CHAIN))
            minter = await _minter(chain)
            await minter.send(chain.token.prepare("mint", to, to_units_down(parse_usd(amount))))
            units = await chain.token.read("balanceOf", to)
            return {"address": to, "test_dollars": format_usd(from_units(units))}

    show(asyncio.run(act()), as_json, facts)


async def _minter(chain: OnChain) -> Wallet:
    """Return a new wallet with gas money, so that nobody else's nonce is in the way."""
    wallet = chain.wallet(secrets.token_bytes(32))
    await chain.connection.rpc("anvil_setBalance", wallet.address, hex(GAS_ON_LOCAL_CHAIN))
    return wallet


def _on_chain(secret: bytes, act: Any) -> dict[str, Any]:
    market = Api().market()

    async def run() -> dict[str, Any]:
        async with on_chain(market) as chain:
            result: dict[str, Any] = await act(chain, chain.wallet(secret), market)
            return result

    return asyncio.run(run())


async def _send(wallet: Wallet, call: Call, what: str, yes: bool) -> Mined:
    """Simulate, say what it does and costs, ask, send."""
    cost = await wallet.cost(call)
    if not yes:
        # On stderr: with --json, stdout has the document and nothing else.
        errors.print(
            f"This will {what}, for at most {cost.wei / 10**18:.6f} of the chain's coin ({cost.gas} gas).",
            markup=False,
        )
        typer.confirm("Send it?", abort=True, err=True)
    return await wallet.send(call)


async def _check_dollars(token: Contract, owner: Address, units: int) -> None:
    has = await token.read("balanceOf", owner)
    if has < units:
        raise CommandFailed(
            f"{owner} has ${format_usd(from_units(has))}, ${format_usd(from_units(units))} is needed"  # type: ignore[arg-type]
        )


async def _account(ledger: Contract, owner: Address) -> dict[str, int]:
    return dict(zip(ACCOUNT_FIELDS, await ledger.read("accountOf", owner), strict=True))


def _moved(told: dict[str, Any]) -> Any:
    return facts(
        {
            name.removesuffix("_usd"): f"${value}"
            if name.endswith("_usd")
            else (dollars(value) if name in ACCOUNT_FIELDS else value)
            for name, value in told.items()
        }
    )


def _sent(mined: Mined) -> dict[str, Any]:
    return {
        "transaction": "0x" + mined.transaction.hex(),
        "block": mined.block_number,
        "gas_used": mined.gas_used,
    }


def _own_address() -> Address:
    path = home() / "wallet.json"
    if not path.exists():
        raise CommandFailed(
            f"there is no wallet at {path}; give --address, or: tallystick account create-wallet"
        )
    return to_address("0x" + json.loads(path.read_text())["address"].removeprefix("0x"))


def _all_receipts(api: Api, most: int) -> list[dict[str, Any]]:
    """Return the account's receipts. Raises TallystickError for a list without an end."""
    found: dict[str, dict[str, Any]] = {}
    after = ""
    while True:
        page = api.call("GET", "/receipts", limit=100, **({"after": after} if after else {}))
        known = len(found)
        found |= {one["id"]: one for one in page["data"]}
        if not page["has_more"]:
            return list(found.values())
        if len(found) == known:
            raise TallystickError(0, "the coordinator shows the same receipts again and says there are more")
        if len(found) > most:
            raise TallystickError(0, f"the coordinator shows more than {most} receipts; see --most")
        after = page["data"][-1]["id"]


def _balance(told: dict[str, Any]) -> Any:
    pairs = {
        name.removesuffix("_nano_usd"): dollars(value)
        for name, value in told.items()
        if name.endswith("_nano_usd")
    }
    for part in told.get("unavailable", ()):
        until = f"; until {part['until']}" if part.get("until") else ""
        pairs[f"not available: {dollars(part['amount_nano_usd'])}"] = (
            f"{part['reason']}{until}; released by: {part['release_by']}"
        )
    return facts(pairs)


def _receipts(told: dict[str, Any]) -> str:
    """Return two lines for each receipt: it is verified by its whole id, too long for a table."""
    lines = []
    for one in told["data"]:
        receipt = one["receipt"]
        tokens = f"{receipt['prompt_tokens']} tokens in, {receipt['output_tokens']} out"
        charge = dollars(one["charge_nano_usd"])
        lines += [one["id"], f"    {tokens}, {charge}, {one['status']}, node {short(receipt['node'])}"]
    return "\n".join(lines) or "There are no receipts yet."

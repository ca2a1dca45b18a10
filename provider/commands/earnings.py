"""`earnings`, `claim`, `cash`: what was earned, where it is, and how it is paid out."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from provider.commands.options import FORESEEN, HOME_DEFAULT, Home, PassphraseFile, Yes, passphrase
from provider.commands.sending import confirm_and_send, with_transactions
from provider.config import ProviderConfig, load_config
from provider.evidence import Evidence, Kept
from provider.keystore import load_key
from provider.wallet import Operator, operator_of
from provider.watch import cashable
from tallystick.commands.console import AsJson, CommandFailed, facts, foreseen, show
from tallystick.protocol.ids import to_hex
from tallystick.protocol.money import SCALE, NanoUsd, format_usd

app = typer.Typer()


@app.command("earnings")
@foreseen(*FORESEEN)
def earnings(
    home: Home = HOME_DEFAULT,
    jobs: Annotated[int, typer.Option(help="How many of the latest jobs to list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show what was earned per job and per epoch, what is claimable now, and what will be, when.

    Example: tallystick provider earnings --jobs 20
    """
    config = load_config(home)
    show(asyncio.run(_earnings(home, config, jobs)), as_json, _render)


async def _earnings(home: Path, config: ProviderConfig, jobs: int) -> dict[str, Any]:
    evidence = Evidence(home / "evidence.sqlite")
    try:
        async with operator_of(config) as operator:
            standing = await operator.standing()
            cheque = cashable(evidence.cheques(config.operator), await _last_closed(operator))
        acknowledged = max((one.earned for one in evidence.cheques(config.operator)), default=NanoUsd(0))
        return {
            "operator": config.operator,
            "claimable_nano_usd": str(standing.claimable),
            "credited_on_chain_nano_usd": str(standing.earned),
            "claimed_nano_usd": str(standing.claimed),
            "acknowledged_nano_usd": str(acknowledged),
            "cashable_nano_usd": str(max(cheque.earned - standing.earned, 0) if cheque else 0),
            "receipts": {
                state: {"count": count, "earning_nano_usd": str(amount)}
                for state, (count, amount) in evidence.totals().items()
            },
            "epochs": [
                {"epoch": epoch, "jobs": count, "earning_nano_usd": str(amount)}
                for epoch, count, amount in evidence.by_epoch()
            ],
            "jobs": [_job(kept) for kept in evidence.recent(jobs)],
            "findings": [{"epoch": epoch, "what": what} for epoch, what in evidence.findings()],
        }
    finally:
        evidence.close()


@app.command("claim")
@foreseen(*FORESEEN)
def claim(
    home: Home = HOME_DEFAULT,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Pay out what was earned and settled, by your own transaction.

    Example: tallystick provider claim
    """
    config = load_config(home)

    async def act() -> dict[str, Any]:
        async with operator_of(config) as operator:
            before = await operator.standing()
            if before.claimable < SCALE:
                raise CommandFailed(
                    f"${format_usd(before.claimable)} is claimable; the least that can be paid is $0.000001. "
                    "See when more comes with: tallystick provider earnings"
                )
            key = load_key(home, "operator", passphrase(passphrase_file))
            done = await confirm_and_send(operator, key, [operator.claim_step()], yes)
            after = await operator.standing()
            paid = NanoUsd(after.claimed - before.claimed)
            return {
                "operator": config.operator,
                "paid_nano_usd": str(paid),
                "paid_usd": format_usd(paid),
                "dollars_before": format_usd(before.dollars),
                "dollars_after": format_usd(after.dollars),
                "transactions": done,
            }

    show(asyncio.run(act()), as_json, with_transactions)


@app.command("cash")
@foreseen(*FORESEEN)
def cash(
    home: Home = HOME_DEFAULT,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Cash the coordinator's cheque from its bond, when an epoch credited less than was acknowledged.

    Example: tallystick provider cash
    """
    config = load_config(home)

    async def act() -> dict[str, Any]:
        evidence = Evidence(home / "evidence.sqlite")
        try:
            cheques = evidence.cheques(config.operator)
        finally:
            evidence.close()
        async with operator_of(config) as operator:
            before = await operator.standing()
            due = await _last_due(operator)
            cheque = cashable(cheques, due)
            if cheque is None or cheque.earned <= before.earned:
                raise CommandFailed(
                    f"there is nothing to cash: the chain credits ${format_usd(before.earned)}, "
                    f"and no cheque that is due by epoch {due} is for more"
                )
            key = load_key(home, "operator", passphrase(passphrase_file))
            done = await confirm_and_send(operator, key, [operator.cash_step(cheque)], yes)
            after = await operator.standing()
            credited = NanoUsd(after.earned - before.earned)
            return {
                "credited_nano_usd": str(credited),
                "credited_usd": format_usd(credited),
                "transactions": done,
            }

    show(asyncio.run(act()), as_json, with_transactions)


async def _last_closed(operator: Operator) -> int:
    return int(await operator.ledger.read("nextEpoch")) - 1


async def _last_due(operator: Operator) -> int:
    """Return the last epoch that is closed, or overdue although nobody closed it."""
    block = await operator.connection.block()
    if block is None:
        return -1
    lag = await operator.ledger.read("settlementLag")
    genesis, length = await operator.ledger.read("genesis"), await operator.ledger.read("epochLength")
    overdue: int = (block.timestamp - lag - genesis) // length - 1
    return max(await _last_closed(operator), overdue)


def _job(kept: Kept) -> dict[str, Any]:
    receipt = kept.signed.receipt
    return {
        "receipt": to_hex(kept.id),
        "prompt_tokens": receipt.prompt_tokens,
        "output_tokens": receipt.output_tokens,
        "charge_nano_usd": str(kept.charge),
        "earning_nano_usd": str(kept.earning),
        "state": "settled" if kept.settled_epoch is not None else kept.state,
        "epoch": kept.settled_epoch,
        "due_by_epoch": kept.taken_epoch,
        "reason": kept.reason,
    }


def _render(told: dict[str, Any]) -> Group:
    amounts = {
        name.removesuffix("_nano_usd").replace("_", " "): f"${format_usd(NanoUsd(int(value)))}"
        for name, value in told.items()
        if name.endswith("_nano_usd")
    }
    table = Table("receipt", "in", "out", "earned", "state", "epoch")
    for job in told["jobs"]:
        table.add_row(
            job["receipt"][:18] + "…",
            str(job["prompt_tokens"]),
            str(job["output_tokens"]),
            f"${format_usd(NanoUsd(int(job['earning_nano_usd'])))}",
            job["state"],
            str(job["epoch"] if job["epoch"] is not None else f"by {job['due_by_epoch']}"),
        )
    warnings = [f"[red]epoch {one['epoch']}: {one['what']}[/red]" for one in told["findings"][-5:]]
    return Group(facts(amounts), table, *warnings)

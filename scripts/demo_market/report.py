"""What the demo says when the job is done."""

from rich.console import Console
from rich.table import Table

from scripts.demo_market.job import Result
from scripts.demo_market.market import Market
from tallystick.protocol.money import NanoUsd, format_usd


def usd(nano: int) -> str:
    """Return nano-dollars as dollars."""
    return f"${format_usd(NanoUsd(nano))}"


def show_result(result: Result, console: Console) -> bool:
    """Print what happened and what was checked; return whether all of it held."""
    console.print()
    console.print(_answers(result), _epochs(result), _balances(result), _checks(result))
    held = all(check.held for check in result.checks)
    if held:
        console.print(
            "[bold green]All of it held:[/bold green] read back from the chain and the API, and recomputed."
        )
    else:
        console.print("[bold red]Something did not hold; see ✗ above.[/bold red]")
    return held


def say_what_to_try(market: Market, result: Result, console: Console) -> None:
    """Print the address, the key, and three things to do with them."""
    body = f'{{"model": "{market.model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    long = body.replace("Hello!", "Tell me a story.").replace("{", '{"stream": true, "max_tokens": 300, ', 1)
    curl = f"curl -N {market.base_url}/chat/completions -H 'Authorization: Bearer {market.api_key}'"
    watch = "\n".join(
        f"              .venv/bin/tallystick provider status --home {one['home']}    # kill -9 {one['pid']}"
        for one in market.providers
    )
    console.print(
        f"""
The market stays up until you press Ctrl-C.
  base_url  [bold]{market.base_url}[/bold]
  api_key   [bold]{market.api_key}[/bold]

Three things to try, in another terminal:
  1. Ask:     {curl} \\
                -d '{body}'
  2. Verify:  export TALLYSTICK_HOME={market.consumer_home} TALLYSTICK_URL={market.base_url}
              .venv/bin/tallystick account receipts
              .venv/bin/tallystick receipt verify {result.answers[-1].receipts[0]}
              .venv/bin/tallystick epoch verify {result.epochs[-1]["epoch"]}
  3. Break:   end the provider that has a job running, and see the answer go on from another one.
              {curl} \\
                -d '{long}'
{watch}
""",
        soft_wrap=True,
    )


def _answers(result: Result) -> Table:
    table = Table("client", "tokens in", "tokens out", "charge", "receipt", title="Answers")
    for one in result.answers:
        table.add_row(
            one.client,
            str(one.prompt_tokens),
            str(one.completion_tokens),
            usd(one.charge),
            ", ".join(receipt[:10] + "…" for receipt in one.receipts),
        )
    return table


def _epochs(result: Result) -> Table:
    table = Table("epoch", "receipts", "rows", title="Epochs on the chain")
    table.add_column("transaction", overflow="fold")
    table.add_column("gas")
    for epoch in result.epochs:
        rows = epoch["file"]["charges"] + epoch["file"]["payouts"]
        table.add_row(
            str(epoch["epoch"]),
            str(epoch["receipt_count"]),
            str(len(rows)),
            epoch["transaction"],
            str(epoch["gas_used"]),
        )
    return table


def _balances(result: Result) -> Table:
    table = Table("who", "what", "before", "after", title="On the chain")
    table.caption = "The token has six decimals: a claim pays whole millionths, the rest stays earned."
    for address, after in result.after.items():
        before = result.before[address]
        who = ("consumer " if address == result.consumer else "operator ") + address[:10] + "…"
        names = ("balance", "spent") if address == result.consumer else ("earned", "claimed", "dollars")
        for name in names:
            if (was := getattr(before, name)) != (now := getattr(after, name)):
                table.add_row(who, name, usd(was), usd(now))
    return table


def _checks(result: Result) -> Table:
    table = Table("", "check", "what was found (nano-dollars)", title="Checked")
    for check in result.checks:
        table.add_row("[green]✓[/green]" if check.held else "[red]✗[/red]", check.what, check.detail)
    return table

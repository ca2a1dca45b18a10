"""`run`, `status` and `logs`: the agent itself, and looking at it."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from provider.agent import Agent, LinkRefused
from provider.commands.options import FORESEEN, HOME_DEFAULT, Home, PassphraseFile, passphrase
from provider.commands.steering import control, control_start
from provider.config import ModelConfig, ProviderConfig, describe_prices, load_config
from provider.control import NotRunning, ask, listen
from provider.engines.base import EngineError
from provider.evidence import Evidence
from provider.hardware import look
from provider.keystore import load_key
from provider.loading import make_engine
from provider.logs import LOG_NAME, log_to
from provider.serving import ServedModel
from provider.wallet import NoChain, operator_of
from provider.watch import Watch
from tallystick.commands.console import AsJson, CommandFailed, console, facts, foreseen, show
from tallystick.commands.logs import read_logs, show_entry
from tallystick.evm import EvmError
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import SigningKey

app = typer.Typer()
log = structlog.get_logger()
HEIGHT_SECONDS = 2.0


@app.command("run")
@foreseen(*FORESEEN, EngineError, LinkRefused, RuntimeError)
def run(home: Home = HOME_DEFAULT, passphrase_file: PassphraseFile = None) -> None:
    """Serve jobs until interrupted. SIGTERM or Ctrl-C drains: running jobs end, or are handed over.

    Example: tallystick provider run
    """
    config = load_config(home)
    key = load_key(home, "node", passphrase(passphrase_file))
    log_to(home / LOG_NAME)
    asyncio.run(_run(home, config, key))


async def _run(home: Path, config: ProviderConfig, key: SigningKey) -> None:
    agent: Agent | None = None

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        return control_start(config, home, request) if agent is None else control(agent, home, request)

    async with AsyncExitStack() as stack:
        # Loading takes a while: an owner who asks for a pause meanwhile must not wait, nor be forgotten.
        await stack.enter_async_context(listen(home, handle))
        models = [await stack.enter_async_context(_started(terms)) for terms in config.models]
        evidence = Evidence(home / "evidence.sqlite")
        stack.callback(evidence.close)
        chain = await stack.enter_async_context(_following(config))
        for model, terms in zip(models, config.models, strict=True):
            model.set_terms(terms)
        agent = Agent(
            config,
            key,
            models,
            evidence,
            software=f"tallystick/{version('tallystick')}",
            hardware=look().line(),
            chain_height=lambda: chain.height,
            settles=lambda: chain.coordinator,
        )
        await stack.enter_async_context(_watching(config, evidence))
        _drain_on_signals(agent)
        console.print(
            f"Node {config.node} serves {', '.join(model.name for model in models)} "
            f"through {config.coordinator}. "
            "Ctrl-C finishes the running jobs and leaves; a second one hands them over.",
            markup=False,
        )
        await agent.run()
    log.info("left", jobs=agent.jobs.done)


@asynccontextmanager
async def _started(terms: ModelConfig) -> AsyncIterator[ServedModel]:
    engine = make_engine(terms)
    began = time.monotonic()
    await engine.start()
    model = ServedModel(engine, terms)
    log.info(
        "model_ready",
        model=model.name,
        seconds=round(time.monotonic() - began, 1),
        prices=describe_prices(terms),
    )
    try:
        yield model
    finally:
        await engine.close()


@dataclass(slots=True)
class _Chain:
    """The chain as this agent sees it itself: its height, and the Ledger's coordinator (None: not known)."""

    height: int = 0
    coordinator: Address | None = None


@asynccontextmanager
async def _following(config: ProviderConfig) -> AsyncIterator[_Chain]:
    """Give what the chain says, kept up to date where there is an RPC to ask."""
    chain = _Chain()

    async def follow() -> None:
        while True:
            try:
                async with operator_of(config) as operator:
                    while True:
                        block = await operator.connection.block()
                        chain.height = max(chain.height, block.number if block else 0)
                        chain.coordinator = to_address(await operator.ledger.read("coordinator"))
                        await asyncio.sleep(HEIGHT_SECONDS)
            except (EvmError, NoChain) as error:
                log.warning("chain_unreachable", reason=str(error))
                await asyncio.sleep(HEIGHT_SECONDS * 5)

    task = asyncio.create_task(follow(), name="height") if config.rpc_url else None
    try:
        yield chain
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _watching(config: ProviderConfig, evidence: Evidence) -> AsyncIterator[None]:
    task = asyncio.create_task(Watch(config, evidence).run(), name="watch") if config.rpc_url else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _drain_on_signals(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.drain)


@app.command("status")
@foreseen(*FORESEEN)
def status(home: Home = HOME_DEFAULT, as_json: AsJson = False) -> None:
    """Show whether the agent runs, is connected, and what it serves at which price.

    Example: tallystick provider status
    """
    config = load_config(home)
    try:
        told = asyncio.run(ask(home, {"do": "status"}))
    except NotRunning as error:
        told = {"running": False, "why": str(error), "node": config.node, "operator": config.operator}
    show(told, as_json, facts)


@app.command("logs")
@foreseen(*FORESEEN)
def logs(
    home: Home = HOME_DEFAULT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines to begin with.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the agent's log. It has no prompts, answers or keys in it.

    Example: tallystick provider logs --follow
    """
    path = home / LOG_NAME
    if not path.exists():
        raise CommandFailed(
            f"there is no {path} yet; the agent writes it: tallystick provider run --home {home}"
        )
    for entry in read_logs([path], lines, follow=follow):
        show_entry(entry, as_json=as_json)

"""`tallystick up`: run a coordinator."""

import asyncio
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvicorn
import uvloop

from marketplace.app import Coordinator, coordinator
from marketplace.commands.local import local_chain
from marketplace.domain.errors import MarketError
from marketplace.domain.places import Crowd
from marketplace.logs import LOG_NAME, configure_logs
from marketplace.settings import Settings
from marketplace.transport.patience import Patience, patient_http
from tallystick.anvil import AnvilMissing
from tallystick.commands.console import CommandFailed, console, foreseen
from tallystick.deployment import BadDeployment
from tallystick.evm import EvmError

log = structlog.get_logger()
SHUTDOWN_SECONDS = 30
SPARE_FILES = 200
"""For books, blobs, logs, mails and the chain."""


class Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own handling ends the process before chain and books are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ask for a graceful end at the first signal, for an immediate one at the second."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


@foreseen(BadDeployment, EvmError, AnvilMissing, MarketError, ValueError)
def up(
    local: Annotated[
        bool, typer.Option("--local", help="Start a local chain and deploy the contracts there.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Books, epoch files and local keys.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    rpc_port: Annotated[
        int, typer.Option(help="Port of the local chain (another one if it is taken).")
    ] = 8545,
    epoch_seconds: Annotated[int, typer.Option(help="Length of an epoch on a new local chain.")] = 20,
    maturity_seconds: Annotated[
        float | None, typer.Option(help="From taking a receipt to its maturity.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write addresses there when ready.")
    ] = None,
) -> None:
    """Run a coordinator: the API, the hub of providers, the watch of the chain, settlement.

    Everything else is set by TALLYSTICK_… variables or a .env file; docs/settings.md lists them.

    Example: tallystick up --local
    """
    settings = _settings(
        local, data_dir=data_dir, host=host, port=port, maturity_lag_seconds=maturity_seconds
    )
    configure_logs(settings.log_level, settings.log_format, settings.data_dir / LOG_NAME)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _up(settings, local=local, rpc_port=rpc_port, epoch_seconds=epoch_seconds, json_file=json_file)
        )


def _settings(local: bool, **given: Any) -> Settings:
    chosen = {name: value for name, value in given.items() if value is not None}
    if local:
        # What takes days elsewhere takes seconds here: every amount is worth a row, and none waits.
        fast = {
            "row_threshold_usd": "0.000001",
            "longest_wait_epochs": 1,
            "maturity_lag_seconds": 5,
            "settle_poll_seconds": 1.0,
            "signup_credit_usd": "1.00",
            "confirmations": 1,
            "address_requests_per_minute": 0,
            "sign_ups_per_hour": 0,
            "mails_per_hour": 0,
            "mails_per_day": 0,
            "max_connections_per_address": 0,
        }
        chosen = {name: value for name, value in fast.items() if not _is_set(name)} | chosen
    return Settings(**chosen)


def _is_set(name: str) -> bool:
    return name in Settings().model_fields_set


async def _up(
    settings: Settings, *, local: bool, rpc_port: int, epoch_seconds: int, json_file: Path | None
) -> None:
    async with AsyncExitStack() as stack:
        if local:
            await stack.enter_async_context(
                local_chain(settings, rpc_port=rpc_port, epoch_seconds=epoch_seconds)
            )
        parts = await stack.enter_async_context(coordinator(settings, is_local=local))
        app = await stack.enter_async_context(parts.running())
        server = Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
                log_config=None,
                access_log=False,
                http=patient_http(_patience(settings, parts.crowd)),
                ws="websockets-sansio",
                ws_max_size=4 * 1024 * 1024,
                # A few kilobytes of a stranger's would become megabytes here; frames are packed already.
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                server_header=False,
                proxy_headers=False,  # whose X-Forwarded-For is believed is a setting of ours
            )
        )
        await _serve(server, parts, json_file)


def _patience(settings: Settings, crowd: Crowd) -> Patience:
    """Return the limits on slow clients, with no more connections than leave files for everything else."""
    most = settings.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < most + SPARE_FILES:
        soft = most + SPARE_FILES if hard == resource.RLIM_INFINITY else min(hard, most + SPARE_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Patience(
        request_seconds=settings.request_seconds,
        write_seconds=settings.write_seconds,
        max_connections=max(1, min(most, soft - SPARE_FILES)),
        crowd=crowd,
        proxies=frozenset(settings.trusted_proxies),
    )


async def _serve(server: uvicorn.Server, parts: Coordinator, json_file: Path | None) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.02)
    if server.started:
        told = describe(parts)
        if json_file is not None:
            _write(json_file, told)
        console.print(
            f"Tallystick is up at [bold]{told['base_url']}[/bold], "
            f"chain {told['chain_id']} at {told['rpc_url']}"
        )
    try:
        await _until_ended(serving, parts)
    finally:
        if json_file is not None:
            json_file.unlink(missing_ok=True)  # noqa: ASYNC240 - nothing is served any more


async def _until_ended(serving: "asyncio.Task[None]", parts: Coordinator) -> None:
    try:
        await serving
    except SystemExit as error:
        # uvicorn ends the process when it cannot listen; its own log line says no more than we do.
        settings = parts.settings
        raise CommandFailed(
            f"{settings.host}:{settings.port} cannot be listened on; is something else there? "
            "Choose another --port"
        ) from error


def describe(parts: Coordinator) -> dict[str, Any]:
    """Return where everything is."""
    place = parts.side.deployment
    return {
        "base_url": f"{parts.settings.address}/v1",
        "rpc_url": parts.settings.rpc_url or place.rpc_url,
        "chain_id": place.chain_id,
        "contracts": {"token": place.token, "ledger": place.ledger, "stake": place.stake},
        "coordinator": parts.side.key.address,
        "treasury": place.owner,
        "deployment": str(parts.settings.deployment_file.resolve()),
        "pid": os.getpid(),
    }


def _write(path: Path, told: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_text(json.dumps(told, indent=2) + "\n")
    fresh.replace(path)

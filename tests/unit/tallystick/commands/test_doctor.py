"""`tallystick doctor`: what it says on a machine where all is well, and where it is not."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from tallystick.cli import app
from tests.support.anvil import Market
from tests.support.hubs import listening

NOWHERE = "http://127.0.0.1:9/v1"


async def examined() -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code and the checks by name."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--json"])
    told = json.loads(result.stdout)
    return result.exit_code, {check["what"]: check for check in told["checks"]}


@pytest.fixture
async def market(
    chain_market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Any]]:
    """A coordinator's `/market` over real contracts; a test may change what it says."""
    place = chain_market.deployment
    told: dict[str, Any] = {
        "chain_id": place.chain_id,
        "contracts": {"ledger": place.ledger, "stake": place.stake, "token": place.token},
        "coordinator": place.coordinator,
        "fee_bps": 500,
        "rpc_url": place.rpc_url,
    }

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(told)

    async def balance(request: Request) -> JSONResponse:
        if request.headers.get("authorization") != "Bearer tsk_good":
            return JSONResponse({"error": {"message": "That key is not known."}}, 401)
        return JSONResponse({"available_nano_usd": "1500000000"})

    monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path / "home"))
    async with listening(Starlette(routes=[Route("/v1/market", show), Route("/v1/balance", balance)])) as url:
        monkeypatch.setenv("TALLYSTICK_URL", f"{url}/v1")
        yield told


@pytest.mark.anvil
async def test_all_is_well(market: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_API_KEY", "tsk_good")
    code, checks = await examined()
    assert code == 0
    assert all(checks[name]["held"] for name in ("python", "market", "account", "chain"))
    assert checks["account"]["detail"] == "$1.50 can be spent"
    assert checks["wallet"]["held"] is None


@pytest.mark.anvil
async def test_what_is_wrong_has_advice(
    market: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_API_KEY", "tsk_old")
    market["contracts"]["ledger"] = "0x" + "99" * 20
    wallet = tmp_path / "home" / "wallet.json"
    wallet.parent.mkdir()
    wallet.write_text("{}")
    wallet.chmod(0o644)
    code, checks = await examined()
    assert code == 1
    assert "That key is not known" in checks["account"]["detail"]
    assert "there is no Ledger at 0x9999" in checks["chain"]["detail"]
    assert checks["wallet"]["advice"] == f"chmod 600 {wallet}"
    assert all(check["advice"] for check in checks.values() if check["held"] is False)


async def test_without_a_market_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path))
    monkeypatch.setenv("TALLYSTICK_URL", NOWHERE)
    code, checks = await examined()
    assert code == 1
    assert "tallystick up --local" in checks["market"]["advice"]
    assert "chain" not in checks

"""`tallystick provider …` from nothing to a stake and out again, against real contracts on Anvil."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from provider.config import FILE_NAME, load_config
from provider.evidence import Evidence
from tallystick.anvil import anvil_key
from tallystick.cli import app
from tallystick.protocol.eip712 import acknowledgement_digest
from tallystick.protocol.frames import Acknowledged
from tallystick.protocol.ids import to_hex
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import USD
from tests.support.epochs import Published, published_epoch
from tests.unit.provider.engines.openai_server import EchoServer, tokenizer_json

pytestmark = pytest.mark.anvil
OPERATOR_KEY = to_hex((0x0E).to_bytes(32, "big"))


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Published]:
    """A market with one settled epoch, a passphrase and a home."""
    async with published_epoch(tmp_path, monkeypatch) as made:
        monkeypatch.setenv("TALLYSTICK_PASSPHRASE", "correct horse")
        monkeypatch.setenv("TALLYSTICK_URL", made.base_url)
        monkeypatch.setenv("TALLYSTICK_HOME", str(tmp_path / "consumer"))
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the agent will live."""
    return tmp_path / "home"


async def run(*arguments: object) -> Result:
    """Run a provider's command beside the running servers."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["provider", *(str(one) for one in arguments)])


async def told(*arguments: object) -> dict[str, Any]:
    """Return the JSON that a command printed; it must have succeeded."""
    result = await run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


async def failure(*arguments: object) -> str:
    """Return the one line that a command failed with."""
    result = await run(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


async def made(stand: Published, home: Path, *more: object) -> dict[str, Any]:
    """Make an agent's home."""
    return await told(
        "init", "--home", home, "--coordinator", stand.base_url, "--engine", "echo", "--model", "echo", *more
    )


async def fund(stand: Published, who: str, dollars: int) -> None:
    """Give test dollars and gas money."""
    market = stand.driver.market
    await market.give_dollars(who, dollars * USD)  # type: ignore[arg-type]
    await market.connection.rpc("anvil_setBalance", who, hex(10**18))


async def test_init_makes_keys_and_a_configuration_and_never_overwrites(stand: Published, home: Path) -> None:
    found = await made(stand, home, "--region", "eu", "--input-price", "0.25")
    config = load_config(home)
    assert (found["operator"], found["node"]) == (config.operator, config.node)
    assert found["operator"] != found["node"]
    assert (config.region, config.models[0].input_price, config.rpc_url) == ("eu", "0.25", stand.rpc_url)
    assert "exists already" in await failure("init", "--home", home, "--coordinator", stand.base_url)


async def test_a_server_beside_the_agent_is_checked_by_doctor_and_its_key_is_not_kept(
    stand: Published, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sesame")
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    server = EchoServer()
    server.key = "sesame"
    async with TestServer(server.app()) as running:
        await told(
            *(
                "init",
                "--home",
                home,
                "--coordinator",
                stand.base_url,
                "--engine",
                "openai",
                "--model",
                "bare",
            ),
            *("--url", running.make_url("/v1"), "--tokenizer", tmp_path, "--api-key-env", "SERVER_KEY"),
        )
        config = await asyncio.to_thread((home / FILE_NAME).read_text)
        assert "sesame" not in config
        assert "context-length" in await _model_finding(home, held=False)
        config = config.replace("[models.options]", "[models.options]\ncontext_length = 500")
        await asyncio.to_thread((home / FILE_NAME).write_text, config)
        assert "bare (opaque)" in await _model_finding(home, held=True)
        server.shows_ids = False
        assert "leave the tokenizer out" in await _model_finding(home, held=False)
        monkeypatch.setenv("SERVER_KEY", "other")
        assert "401" in await _model_finding(home, held=False)


async def _model_finding(home: Path, *, held: bool) -> str:
    """Return what doctor says about the model, which holds or does not."""
    checks = json.loads((await run("doctor", "--home", home, "--json")).stdout)["checks"]
    (found,) = [check for check in checks if check["what"].startswith("model")]
    assert found["held"] is held, found
    return str(found["detail"])


async def test_init_says_which_options_an_engine_takes(stand: Published, home: Path) -> None:
    common = ("init", "--home", home, "--coordinator", stand.base_url, "--engine")
    assert "needs --url" in await failure(*common, "openai", "--model", "x")
    assert "does not take --api-key-env" in await failure(*common, "transformers", "--api-key-env", "KEY")
    assert "does not take --threads" in await failure(*common, "echo", "--threads", "2")
    assert not await asyncio.to_thread(home.exists)


async def test_a_wrong_price_leaves_nothing_behind(stand: Published, home: Path) -> None:
    said = await failure(
        "init",
        "--home",
        home,
        "--coordinator",
        stand.base_url,
        "--engine",
        "echo",
        "--input-price",
        "0.00001",
    )
    assert "0.00001" in said
    assert not await asyncio.to_thread(home.exists)


async def test_from_nothing_to_a_stake_and_out_again(
    stand: Published, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = (await made(stand, home))["operator"]
    first = await run("doctor", "--home", home, "--json")
    assert first.exit_code == 1
    assert json.loads(first.stdout)["failed"] == ["gas money", "stake", "node", "what is left"]
    assert "has $0.00; $25.00 more is to be staked" in await failure(
        "register", "--home", home, "--stake", "25"
    )
    assert "the least stake is $10.00" in await failure("register", "--home", home, "--stake", "5")

    await fund(stand, operator, 30)
    registered = await told("register", "--home", home, "--stake", "25", "--yes")
    assert registered["staked_usd"] == "25.00"
    assert [one["what"].split()[0] for one in registered["transactions"]] == ["stake", "add", "declare"]
    with monkeypatch.context() as without_passphrase:
        without_passphrase.delenv("TALLYSTICK_PASSPHRASE")
        assert (await told("register", "--home", home, "--stake", "25"))["transactions"] == []
    assert (await told("doctor", "--home", home))["held"]

    left = await told("exit", "--home", home, "--yes")
    assert (left["staked_usd"], left["leaving_usd"]) == ("0.00", "25.00")
    assert "can be taken out from" in await failure("exit", "--home", home, "--yes")
    await stand.driver.wait(500)
    await told("exit", "--home", home, "--yes")
    token = stand.driver.market.contracts.token
    assert await token.read("balanceOf", operator) == 30_000_000
    assert "nothing to leave" in await failure("exit", "--home", home, "--yes")


async def test_nothing_is_sent_without_a_yes(stand: Published, home: Path) -> None:
    operator = (await made(stand, home))["operator"]
    await fund(stand, operator, 30)
    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["provider", "register", "--home", str(home), "--stake", "25"], input="n\n"
    )
    assert result.exit_code == 1
    assert "stake $25.00" in result.output
    assert "Gas for the first: at most" in result.output
    assert await stand.driver.market.contracts.token.read("balanceOf", operator) == 30_000_000


async def test_a_wrong_passphrase_is_one_line(
    stand: Published, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(stand, home)
    monkeypatch.setenv("TALLYSTICK_PASSPHRASE", "wrong")
    assert "the passphrase does not open" in await failure("register", "--home", home)


async def test_what_was_earned_is_claimed_and_a_cheque_covers_what_is_missing(
    stand: Published, home: Path
) -> None:
    # Anvil's account 5 is the operator whom the epoch paid.
    from eth_account import Account

    Account.enable_unaudited_hdwallet_features()
    mnemonic = "test test test test test test test test test test test junk"
    secret = to_hex(bytes(Account.from_mnemonic(mnemonic, account_path="m/44'/60'/0'/0/5").key))
    (key := home.parent / "operator-key").write_text(secret + "\n")
    operator = (await made(stand, home, "--operator-key-file", key))["operator"]
    assert operator == anvil_key(5).address

    earned = 5 * USD - 5 * USD // 20
    before = await told("earnings", "--home", home)
    assert (before["claimable_nano_usd"], before["claimed_nano_usd"]) == (str(earned), "0")
    assert "nothing to cash" in await failure("cash", "--home", home, "--yes")
    paid = await told("claim", "--home", home, "--yes")
    assert paid["paid_nano_usd"] == str(earned)
    assert "$0.00 is claimable" in await failure("claim", "--home", home, "--yes")

    digest = acknowledgement_digest(stand.driver.domain, operator, stand.epoch, NanoUsd(earned + USD))
    signature = stand.driver.market.coordinator_key.sign_digest(digest)
    evidence = Evidence(home / "evidence.sqlite")
    await evidence.acknowledged(
        Acknowledged(account=operator, epoch=stand.epoch, earned=earned + USD, signature=signature)
    )
    evidence.close()
    assert (await told("earnings", "--home", home))["cashable_nano_usd"] == str(USD)
    assert (await told("cash", "--home", home, "--yes"))["credited_nano_usd"] == str(USD)
    assert (await told("claim", "--home", home, "--yes"))["paid_nano_usd"] == str(USD)


async def test_terms_change_also_while_no_agent_runs(stand: Published, home: Path) -> None:
    await made(stand, home)
    await told("price", "echo", "--input", "0.2", "--slots", "2", "--home", home)
    await told("pause", "--home", home)
    (terms,) = load_config(home).models
    assert (terms.input_price, terms.output_price, terms.slots, terms.paused) == ("0.2", "0.30", 2, True)
    assert "say what to change" in await failure("price", "--home", home)
    assert "'other' is not configured" in await failure("pause", "other", "--home", home)
    assert "0.0001" in await failure("price", "echo", "--input", "0.0001", "--home", home)
    assert load_config(home).models == [terms]
    assert (await told("status", "--home", home))["running"] is False
    assert "no" in await failure("logs", "--home", home)

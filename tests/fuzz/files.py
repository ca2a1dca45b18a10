"""Files that people edit, and the running agent's socket: mistakes there get a message, never a traceback."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from eth_account import Account as EthAccount

from marketplace.services.catalog import read_catalog_file
from provider.commands.steering import control
from provider.config import FILE_NAME, BadConfig, load_config, save_config
from provider.control import reply
from provider.keystore import KeyUnavailable, address_of, key_path, load_secret
from tallystick.deployment import BadDeployment, Deployment
from tallystick.models.manifest import BadManifest
from tests.fuzz.driver import Parser
from tests.fuzz.mutation import Mutator
from tests.support.agents import a_config, an_agent

MOST_ROUNDS = 1000
"""Of a keystore's key derivation: its file's owner chose how long it takes, and may choose an hour."""


@cache
def _folder() -> Path:
    place = tempfile.TemporaryDirectory(prefix="tallystick-fuzz-")
    _kept.append(place)
    return Path(place.name)


_kept: list[Any] = []
"""Temporary folders and an agent; they go with the process."""


def a_toml(mutator: Mutator) -> str:
    """Return a damaged configuration of an agent."""
    config = a_config()
    if mutator.chance.random() < 0.5:
        tree = mutator.tree_of(msgspec.to_builtins(config), is_json=True)
        try:
            _check_depth(tree)
            return msgspec.toml.encode(tree).decode()
        except (TypeError, ValueError, AttributeError, RecursionError, OverflowError):
            pass  # not every tree is TOML
    return mutator.text_of(msgspec.toml.encode(config).decode())


def read_toml(text: str) -> bool:
    """Load it; what is taken is saved as something that loads the same."""
    home = _folder()
    (home / FILE_NAME).write_bytes(text.encode(errors="replace"))
    try:
        config = load_config(home)
    except BadConfig:
        return False
    try:
        _check_depth(msgspec.to_builtins(config))
    except ValueError:
        return True
    save_config(home, config)
    assert load_config(home) == config
    return True


def _check_depth(tree: Any) -> None:
    """Raise ValueError for what the writer of TOML takes ages for: its time doubles with every level."""
    level = [tree]
    for _ in range(12):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
    if level:
        raise ValueError("nested too deep")


def _parts(tree: dict[str, Any] | list[Any]) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else tree


@cache
def _keystore() -> dict[str, Any]:
    made: dict[str, Any] = EthAccount.encrypt(b"\x07" * 32, "words", kdf="pbkdf2", iterations=2)
    return made


def a_keystore(mutator: Mutator) -> bytes:
    """Return a damaged keystore."""
    return mutator.json_of(_keystore())


def read_keystore(document: bytes) -> bool:
    """Open it, and read its address without its passphrase."""
    if _takes_long(document):
        return False
    path = key_path(_folder(), "node")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(document)
    taken = False
    for read in (lambda: load_secret(_folder(), "node", "words"), lambda: address_of(_folder(), "node")):
        try:
            read()
            taken = True
        except KeyUnavailable:
            pass
    return taken


def _takes_long(document: bytes) -> bool:
    try:
        rounds = json.loads(document)["crypto"]["kdfparams"]["c"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return False
    return isinstance(rounds, int | float) and rounds > MOST_ROUNDS


DEPLOYMENT = {
    "chain_id": 31337,
    "rpc_url": "http://127.0.0.1:8545",
    **dict.fromkeys(("token", "ledger", "stake", "owner", "coordinator"), "0x" + "5f" * 20),
    **dict.fromkeys(("deployed_block", "genesis", "epoch_length", "settlement_lag", "thaw"), 10),
}


def a_deployment(mutator: Mutator) -> bytes:
    """Return a damaged deployment file."""
    return mutator.json_of(DEPLOYMENT)


def read_deployment(document: bytes) -> bool:
    """Load it; what is taken is saved as something that loads the same, and can be used."""
    path = _folder() / "deployment.json"
    path.write_bytes(document)
    try:
        place = Deployment.load(path)
    except BadDeployment:
        return False
    place.save(path)
    assert Deployment.load(path) == place
    assert place.epoch_at(1_700_000_000) >= 0
    return True


def a_catalog(mutator: Mutator) -> bytes:
    """Return a damaged list of admitted models."""
    return mutator.json_of({"models": ["0x" + "5f" * 32, "manifest.json", "0x" + "60" * 32]})


def read_catalog(document: bytes) -> bool:
    """Load it."""
    path = _folder() / "catalog.json"
    path.write_bytes(document)
    try:
        read_catalog_file(path)
    except (ValueError, BadManifest):
        return False
    return True


REQUESTS = (
    {"do": "status"},
    {"do": "terms", "model": "echo", "paused": True, "input_price": "0.25", "slots": 2},
    {"do": "terms", "model": "", "output_price": "0.30"},
)


def a_request(mutator: Mutator) -> bytes:
    """Return a damaged line for the agent's socket."""
    return mutator.json_of(mutator.chance.choice(REQUESTS))


@cache
def _agent() -> Any:
    agent = an_agent(a_config(), _folder() / "agent")
    _kept.append(agent)
    return agent


def read_request(line: bytes) -> bool:
    """Answer it as a running agent does; the answer is JSON."""
    answer = reply(line, lambda request: control(_agent(), _folder() / "agent", request))
    json.dumps(answer)
    return "error" not in answer


def close() -> None:
    """Remove what was written."""
    if _agent.cache_info().currsize:
        _agent().evidence.close()
        _agent.cache_clear()
    _folder.cache_clear()
    for one in _kept:
        if isinstance(one, tempfile.TemporaryDirectory):
            one.cleanup()
    _kept.clear()


PARSERS = (
    Parser("configuration", a_toml, read_toml, 4),
    Parser("keystores", a_keystore, read_keystore, 2),
    Parser("deployments", a_deployment, read_deployment, 2),
    Parser("catalog files", a_catalog, read_catalog, 2),
    Parser("control socket", a_request, read_request, 4),
)

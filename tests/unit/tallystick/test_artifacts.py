"""The artifacts that Python deploys are what the sources give: through forge, and without it."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import solcx

ROOT = Path(__file__).resolve().parents[3]
CONTRACTS = ("Ledger", "Stake", "TestUSD")
IMPORT = re.compile(r'^\s*import\s[^;]*?"([^"]+)";', re.MULTILINE)
PREFIX = "@openzeppelin/contracts/"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or not (ROOT / "node_modules").is_dir(),
        reason="needs node and the packages of package.json",
    ),
]


def committed(name: str) -> dict[str, Any]:
    artifact: dict[str, Any] = json.loads((ROOT / "tallystick" / "artifacts" / f"{name}.json").read_text())
    return artifact


def in_any_order(abi: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(entry, sort_keys=True) for entry in abi)


def imported(unit: str, line: str) -> str:
    """Return the name of the source unit that an import line in `unit` means."""
    if line.startswith(PREFIX):
        return f"node_modules/{line}"
    return str((ROOT / unit).parent.joinpath(line).resolve().relative_to(ROOT))


def closure(units: list[str]) -> dict[str, dict[str, str]]:
    """Return these source units and all that they import, as the compiler wants them."""
    sources: dict[str, dict[str, str]] = {}
    while units:
        unit = units.pop()
        if unit in sources:
            continue
        text = (ROOT / unit).read_text()
        sources[unit] = {"content": text}
        units += [imported(unit, line) for line in IMPORT.findall(text)]
    return sources


@pytest.fixture(scope="module")
def rebuilt() -> dict[str, Any]:
    """The contracts compiled by py-solc-x from the sources and foundry.toml, without forge."""
    profile = tomllib.loads((ROOT / "foundry.toml").read_text())["profile"]["default"]
    request = {
        "language": "Solidity",
        "sources": closure([f"contracts/src/{name}.sol" for name in CONTRACTS]),
        "settings": {
            "remappings": [f"{PREFIX}=node_modules/{PREFIX}"],
            "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
            "viaIR": profile.get("via_ir", False),
            "evmVersion": profile["evm_version"],
            "metadata": {
                "bytecodeHash": profile["bytecode_hash"],
                "appendCBOR": profile["cbor_metadata"],
            },
            "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}},
        },
    }
    compiled = solcx.compile_standard(request, solc_binary=ROOT / "scripts" / "solc")
    return {name: compiled["contracts"][f"contracts/src/{name}.sol"][name] for name in CONTRACTS}


def test_forge_gives_the_committed_artifacts() -> None:
    check = subprocess.run([ROOT / "scripts" / "artifacts", "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_compiler_alone_gives_the_same_bytecode(name: str, rebuilt: dict[str, Any]) -> None:
    assert "0x" + rebuilt[name]["evm"]["bytecode"]["object"] == committed(name)["bytecode"]


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_compiler_alone_gives_the_same_abi(name: str, rebuilt: dict[str, Any]) -> None:
    assert in_any_order(rebuilt[name]["abi"]) == in_any_order(committed(name)["abi"])

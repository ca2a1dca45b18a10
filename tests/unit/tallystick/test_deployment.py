"""Deployment files."""

import json
from pathlib import Path

import pytest

from tallystick.deployment import BadDeployment, Deployment
from tallystick.protocol.ids import Address

DEPLOYMENT = Deployment(
    chain_id=31337,
    rpc_url="http://127.0.0.1:8545",
    token=Address("0x" + "01" * 20),
    ledger=Address("0x" + "02" * 20),
    stake=Address("0x" + "03" * 20),
    owner=Address("0x" + "04" * 20),
    coordinator=Address("0x" + "05" * 20),
    deployed_block=7,
    genesis=1_700_000_000,
    epoch_length=10,
    settlement_lag=20,
    thaw=45,
)


def test_a_saved_deployment_loads_as_it_was(tmp_path: Path) -> None:
    DEPLOYMENT.save(tmp_path / "deep" / "deployment.json")
    assert Deployment.load(tmp_path / "deep" / "deployment.json") == DEPLOYMENT


def test_checksummed_addresses_load_in_lower_case(tmp_path: Path) -> None:
    file = tmp_path / "deployment.json"
    DEPLOYMENT.save(file)
    file.write_text(file.read_text().replace("0x0202", "0X0202"))
    assert Deployment.load(file).ledger == DEPLOYMENT.ledger


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"token": "0x01"}', '{"token": 7}'])
def test_anything_else_is_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "deployment.json"
    file.write_text(text)
    with pytest.raises(BadDeployment, match=r"deployment\.json"):
        Deployment.load(file)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch_length", 0),
        ("epoch_length", "20"),
        ("genesis", 1.5),
        ("chain_id", None),
        ("rpc_url", {}),
        ("thaw", []),
    ],
)
def test_a_field_of_another_type_is_refused(tmp_path: Path, field: str, value: object) -> None:
    file = tmp_path / "deployment.json"
    DEPLOYMENT.save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(BadDeployment, match=r"deployment\.json"):
        Deployment.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDeployment, match="none"):
        Deployment.load(tmp_path / "none.json")


@pytest.mark.parametrize(("seconds", "epoch"), [(0, 0), (9, 0), (10, 1), (-5, 0), (25, 2)])
def test_epochs_are_counted_from_genesis(seconds: int, epoch: int) -> None:
    assert DEPLOYMENT.epoch_at(DEPLOYMENT.genesis + seconds) == epoch

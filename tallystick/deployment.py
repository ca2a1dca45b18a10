"""Where the market's contracts are, and how they get there.

A deployment is a small JSON file that the coordinator, providers and consumers share.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from tallystick.audit_secrets import audit_secret, audit_secret_hash
from tallystick.evm import Artifact, Call, Connection, Contract, EvmError, Wallet, load_artifact
from tallystick.protocol.eip712 import Domain
from tallystick.protocol.ids import Address, to_address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd, to_units_down

UNLIMITED_RIGHT: Final = 2**63 - 1
"""What the treasury authorizes: its own coordinator may advance all of its deposit."""


class BadDeployment(ValueError):
    """A deployment file that is missing, malformed, or for another chain."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed when the contracts are deployed. Times are seconds, amounts nano-dollars."""

    epoch_length: int = 86_400
    settlement_lag: int = 86_400
    thaw: int = 4 * 86_400
    bond_release: int = 14 * 86_400
    minimum_stake: int = 100_000_000_000
    unbonding: int = 21 * 86_400
    case_window: int = 14 * 86_400


LOCAL_TERMS: Final = Terms(
    epoch_length=10,
    settlement_lag=20,
    thaw=45,
    bond_release=90,
    minimum_stake=10_000_000_000,
    unbonding=60,
    case_window=30,
)
"""For a chain on one machine: what takes days elsewhere takes seconds."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The market's contracts on one chain; times are seconds."""

    chain_id: int
    rpc_url: str
    token: Address
    ledger: Address
    stake: Address
    owner: Address
    coordinator: Address
    deployed_block: int
    genesis: int
    epoch_length: int
    settlement_lag: int
    thaw: int

    @property
    def ledger_domain(self) -> Domain:
        """The EIP-712 domain of everything but NodeConsent."""
        return Domain(self.chain_id, self.ledger)

    @property
    def stake_domain(self) -> Domain:
        """The EIP-712 domain of NodeConsent."""
        return Domain(self.chain_id, self.stake)

    def epoch_at(self, seconds: int) -> int:
        """Return the epoch that runs at a time (seconds since 1970); 0 also before the first one starts."""
        return max(0, seconds - self.genesis) // self.epoch_length

    def at_rpc(self, rpc_url: str) -> "Deployment":
        """Return the same deployment, reached through another node of its chain."""
        return replace(self, rpc_url=rpc_url)

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n")
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Deployment":
        """Return what the file says. Raises BadDeployment."""
        try:
            given = msgspec.json.decode(path.read_bytes(), type=cls)
            if min(given.chain_id, given.epoch_length) < 1:
                raise ValueError("the chain's id and the length of an epoch are at least 1")
            names = ("token", "ledger", "stake", "owner", "coordinator")
            addresses: dict[str, Any] = {name: to_address(getattr(given, name)) for name in names}
            return replace(given, **addresses)
        except (OSError, ValueError, RecursionError) as error:
            raise BadDeployment(f"{path} is no deployment file: {error}") from error


@dataclass(frozen=True, slots=True)
class Contracts:
    """The deployment's contracts, ready to be called."""

    ledger: Contract
    stake: Contract
    token: Contract

    @classmethod
    def at(cls, connection: Connection, deployment: Deployment) -> "Contracts":
        """Return the contracts as seen through `connection`. Raises BadDeployment for another chain's."""
        if connection.chain_id != deployment.chain_id:
            raise BadDeployment(
                f"the contracts are on chain {deployment.chain_id}, but the node serves {connection.chain_id}"
            )
        return cls(
            Contract(connection, deployment.ledger, "Ledger"),
            Contract(connection, deployment.stake, "Stake"),
            Contract(connection, deployment.token, "TestUSD"),
        )


async def deploy(
    owner: Wallet, coordinator: SigningKey, *, rpc_url: str, terms: Terms, token: Address | None = None
) -> Deployment:
    """Deploy Ledger and Stake, and TestUSD unless `token` names a dollar, and return where they are.

    `owner` pays the gas and owns the contracts. Epoch 0 starts with the latest block. Raises EvmError.
    """
    start = await owner.connection.block()
    if start is None:
        raise EvmError("the chain has no block yet")
    dollar = token or await _create(owner, load_artifact("TestUSD"))
    secret = audit_secret(
        coordinator, chain_id=owner.connection.chain_id, genesis=start.timestamp, first_epoch=0
    )
    ledger = await _create(
        owner,
        load_artifact("Ledger"),
        token=dollar,
        owner=owner.address,
        coordinator=coordinator.address,
        thaw=terms.thaw,
        genesis=start.timestamp,
        epochLength=terms.epoch_length,
        settlementLag=terms.settlement_lag,
        bondRelease=terms.bond_release,
        firstAuditSecretHash=audit_secret_hash(secret),
    )
    stake = await _create(
        owner,
        load_artifact("Stake"),
        token=dollar,
        owner=owner.address,
        unbonding=terms.unbonding,
        minimum=terms.minimum_stake,
        settlementHorizon=terms.epoch_length + terms.settlement_lag,
        caseWindow=terms.case_window,
    )
    return Deployment(
        chain_id=owner.connection.chain_id,
        rpc_url=rpc_url,
        token=dollar,
        ledger=ledger,
        stake=stake,
        owner=owner.address,
        coordinator=coordinator.address,
        deployed_block=start.number,
        genesis=start.timestamp,
        epoch_length=terms.epoch_length,
        settlement_lag=terms.settlement_lag,
        thaw=terms.thaw,
    )


async def endow(owner: Wallet, contracts: Contracts, *, deposit: NanoUsd, bond: NanoUsd) -> None:
    """Mint test dollars and make them the treasury's deposit and the coordinator's bond. Raises EvmError."""
    units = to_units_down(NanoUsd(deposit + bond))
    await owner.send(contracts.token.prepare("mint", owner.address, units))
    await owner.send(contracts.token.prepare("approve", contracts.ledger.address, units))
    if deposit:
        await owner.send(contracts.ledger.prepare("deposit", to_units_down(deposit), UNLIMITED_RIGHT))
    if bond:
        await owner.send(contracts.ledger.prepare("depositBond", to_units_down(bond)))


async def _create(deployer: Wallet, artifact: Artifact, **config: Any) -> Address:
    arguments = [_in_order(artifact, config)] if config else []
    mined = await deployer.send(Call(None, artifact.creation_code(*arguments)))
    if mined.contract is None:
        raise EvmError(f"the transaction that deploys {artifact.name} made no contract")
    return mined.contract


def _in_order(artifact: Artifact, config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of the constructor's one struct in the order of its fields."""
    constructor = next(one for one in artifact.abi if one["type"] == "constructor")
    return tuple(config[field["name"]] for field in constructor["inputs"][0]["components"])

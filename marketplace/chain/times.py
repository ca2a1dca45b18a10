"""The times that were fixed when the Ledger was deployed, read from the contract itself."""

from marketplace.domain.timing import LedgerTimes
from tallystick.deployment import BadDeployment, Contracts, Deployment
from tallystick.evm import Connection


async def ledger_times(connection: Connection, deployment: Deployment) -> LedgerTimes:
    """Return the Ledger's times. Raises BadDeployment if the deployment file says others, or EvmError."""
    ledger = Contracts.at(connection, deployment).ledger
    times = LedgerTimes(
        genesis=await ledger.read("genesis"),
        epoch_length=await ledger.read("epochLength"),
        settlement_lag=await ledger.read("settlementLag"),
        thaw=await ledger.read("thaw"),
        bond_release=await ledger.read("bondRelease"),
    )
    for name in ("genesis", "epoch_length", "settlement_lag", "thaw"):
        said, there = getattr(deployment, name), getattr(times, name)
        if said != there:
            raise BadDeployment(
                f"the deployment file says {name} {said}, the Ledger at {deployment.ledger} says {there}"
            )
    return times

"""The operator's business with the contracts: stake, nodes, models, claims, cheques, and leaving.

Every action is a list of named calls that can be simulated and priced before anything is sent.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from provider.config import ProviderConfig
from provider.evidence import Cheque
from tallystick.evm import Call, Connection, Contract, EvmError, Mined, Wallet
from tallystick.evm.connection import connected
from tallystick.permits import NoPermits, sign_permit
from tallystick.protocol.eip712 import Domain, node_consent_digest
from tallystick.protocol.ids import Address, ModelId, to_address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd, TokenUnits, format_usd, from_units, to_units_down

PERMIT_SECONDS: Final = 1800
STATUS: Final = {0: "unknown", 1: "active", 2: "removed", 3: "ended"}


class NoChain(Exception):
    """The configuration names no node of the chain, or one of another chain."""


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction to come, in words."""

    what: str
    call: Call


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the operator and its node stand on the chain. Amounts in nano-dollars, gas in wei."""

    dollars: NanoUsd
    gas_wei: int
    staked: NanoUsd
    leaving: NanoUsd
    leaves_at: int
    minimum: NanoUsd
    eligible: bool
    node_operator: Address
    node_status: str
    earned: NanoUsd
    claimed: NanoUsd

    @property
    def claimable(self) -> NanoUsd:
        """What a claim would pay now."""
        return NanoUsd(self.earned - self.claimed)


class Operator:
    """The operator of a configured agent, seen through an open connection."""

    def __init__(self, config: ProviderConfig, connection: Connection) -> None:
        self._config = config
        self.connection = connection
        self.ledger = Contract(connection, config.ledger, "Ledger")
        self.stake = Contract(connection, config.stake, "Stake")
        self.token = Contract(connection, config.token, "TestUSD")

    async def standing(self) -> Standing:
        """Return where the operator and its node stand. Raises EvmError."""
        operator = self._config.operator
        active, leaving, leaves_at = await self.stake.read("stakeOf", operator)
        owner, status = await self.stake.read("operatorOf", self._config.node)
        *_, earned = await self.ledger.read("accountOf", operator)
        return Standing(
            dollars=from_units(TokenUnits(await self.token.read("balanceOf", operator))),
            gas_wei=await self.connection.gas_money(operator),
            staked=NanoUsd(active),
            leaving=NanoUsd(leaving),
            leaves_at=leaves_at,
            minimum=NanoUsd(await self.stake.read("minimum")),
            eligible=await self.stake.read("isEligible", operator),
            node_operator=to_address(owner),
            node_status=STATUS[status],
            earned=NanoUsd(earned),
            claimed=NanoUsd(await self.ledger.read("claimedOf", operator)),
        )

    async def is_registered(self, stake: NanoUsd, models: Sequence[ModelId]) -> bool:
        """Return whether `stake` is staked, the node added and the models declared. Raises EvmError."""
        standing = await self.standing()
        return (
            standing.staked >= stake >= standing.minimum
            and (standing.node_status, standing.node_operator) == ("active", self._config.operator)
            and not await self._undeclared(models)
        )

    async def register_steps(
        self, secret: bytes, node_key: SigningKey, stake: NanoUsd, models: Sequence[ModelId]
    ) -> list[Step]:
        """Return what is left to do until `stake` is staked, the node added and the models declared."""
        steps: list[Step] = []
        standing = await self.standing()
        if (missing := stake - standing.staked) > 0:
            steps += await self._stake_steps(secret, NanoUsd(missing))
        steps += await self.add_node_steps(node_key)
        if new := await self._undeclared(models):
            steps.append(Step(f"declare {len(new)} model(s)", self.stake.prepare("declareModels", new)))
        return steps

    async def add_node_steps(self, node_key: SigningKey) -> list[Step]:
        """Return the call that adds a node with its consent; none if it is active already."""
        if await self._is_active(node_key.address):
            return []
        domain = Domain(chain_id=self._config.chain_id, contract=self._config.stake)
        consent = node_key.sign_digest(node_consent_digest(domain, self._config.operator, node_key.address))
        call = self.stake.prepare("addNode", node_key.address, consent)
        return [Step(f"add node {node_key.address}", call)]

    async def remove_node_steps(self, nodes: Sequence[Address]) -> list[Step]:
        """Return the calls that remove those of `nodes` that are active."""
        active = [node for node in nodes if await self._is_active(node)]
        return [Step(f"remove node {node}", self.stake.prepare("removeNode", node)) for node in active]

    async def _is_active(self, node: Address) -> bool:
        _, status = await self.stake.read("operatorOf", node)
        return STATUS[status] == "active"

    def claim_step(self) -> Step:
        """Return the call that pays out what was earned and settled."""
        return Step("claim what was earned", self.ledger.prepare("claim", self._config.operator))

    def cash_step(self, cheque: Cheque) -> Step:
        """Return the call that cashes a cheque from the coordinator's bond."""
        call = self.ledger.prepare(
            "cash", to_address(cheque.account), cheque.epoch, cheque.earned, cheque.signature
        )
        return Step(f"cash the cheque of epoch {cheque.epoch}", call)

    async def exit_steps(self) -> list[Step]:
        """Return the next steps of leaving: remove the node and queue the stake, or take it out."""
        standing = await self.standing()
        now = await self._now()
        if standing.leaving and not standing.staked and now >= standing.leaves_at:
            return [Step("take the stake that has left the queue", self.stake.prepare("unstake"))]
        steps = []
        if standing.node_status == "active":
            steps.append(
                Step(f"remove node {self._config.node}", self.stake.prepare("removeNode", self._config.node))
            )
        if standing.staked:
            steps.append(
                Step("queue all of the stake to leave", self.stake.prepare("requestUnstake", standing.staked))
            )
        return steps

    async def send(self, key: SigningKey, steps: Sequence[Step]) -> list[Mined]:
        """Send the steps one by one. Raises EvmError at the first that fails; those before it stand."""
        wallet = Wallet(self.connection, key)
        return [await wallet.send(step.call) for step in steps]

    async def _undeclared(self, models: Sequence[ModelId]) -> list[ModelId]:
        return [one for one in models if not await self.stake.read("isServing", self._config.operator, one)]

    async def _stake_steps(self, secret: bytes, amount: NanoUsd) -> list[Step]:
        """Return the calls that stake: one with a permit, or two for a token without permits."""
        units = to_units_down(amount)
        words = f"stake ${format_usd(amount)}"
        try:
            permit = await sign_permit(
                self.token,
                secret,
                chain_id=self._config.chain_id,
                owner=self._config.operator,
                spender=self._config.stake,
                units=units,
                deadline=max(await self._now(), int(time.time())) + PERMIT_SECONDS,
            )
        except NoPermits:
            return [
                Step(
                    f"let Stake take ${format_usd(amount)}",
                    self.token.prepare("approve", self._config.stake, units),
                ),
                Step(words, self.stake.prepare("stake", units)),
            ]
        call = self.stake.prepare("stakeWithPermit", units, permit.deadline, permit.v, permit.r, permit.s)
        return [Step(words, call)]

    async def _now(self) -> int:
        block = await self.connection.block()
        if block is None:
            raise EvmError("the chain has no block yet")
        return block.timestamp


@asynccontextmanager
async def operator_of(config: ProviderConfig) -> AsyncIterator[Operator]:
    """Give the operator through a connection that is closed at the end.

    Raises NoChain without an RPC address or for another chain's, NodeUnreachable.
    """
    if not config.rpc_url:
        raise NoChain("which node of the chain should be asked? Set rpc_url in the configuration")
    async with connected(config.rpc_url) as connection:
        if connection.chain_id != config.chain_id:
            raise NoChain(f"{config.rpc_url} serves chain {connection.chain_id}, not {config.chain_id}")
        yield Operator(config, connection)


def sent(step: Step, mined: Mined) -> dict[str, Any]:
    """Return what came of a step, for `--json`."""
    return {
        "what": step.what,
        "transaction": "0x" + mined.transaction.hex(),
        "block": mined.block_number,
        "gas_used": mined.gas_used,
    }

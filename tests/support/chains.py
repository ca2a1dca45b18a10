"""Chains for tests behind one set of levers: Anvil with the contracts, and the twin in memory."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from marketplace.chain.evm import EvmChain
from marketplace.chain.memory import MemoryChain
from marketplace.chain.memory_ledger import MemoryLedger
from marketplace.chain.sender import EvmSender
from marketplace.domain.epochs import EpochClock
from marketplace.domain.ports.chain import Chain, Consent, Sender
from tallystick.anvil import anvil_key
from tallystick.audit_secrets import audit_secret, audit_secret_hash
from tallystick.evm import Wallet
from tallystick.protocol.eip712 import Domain, acknowledgement_digest, consent_digest
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import COORDINATOR, LONG_TERMS, OWNER, USD, Market, anvil_process, market_at

MEMORY_LEDGER = Address("0x" + "1e" * 20)


class ChainDriver(Protocol):
    """A chain, the coordinator's sender, and what people do; `who` is an index of Anvil's accounts."""

    chain: Chain
    sender: Sender
    clock: EpochClock
    domain: Domain

    async def deposit(self, who: int, amount: int, authorized: int = 0) -> None: ...
    async def authorize(self, who: int, authorized: int) -> None: ...
    async def add_consent_key(self, who: int, key: Address) -> None: ...
    async def request_withdrawal(self, who: int, amount: int) -> None: ...
    async def withdraw(self, who: int) -> None: ...
    async def cash(self, who: int, epoch: int, earned: int) -> None: ...
    async def mine(self, blocks: int = 1) -> None: ...
    async def wait(self, seconds: int) -> None: ...
    async def reorganise(self, depth: int) -> None: ...
    async def hold_back(self, is_on: bool) -> None: ...


def address(who: int) -> Address:
    """Return the address of one of Anvil's accounts."""
    return anvil_key(who).address


def consent(domain: Domain, who: int, spent: int, *, key: SigningKey | None = None) -> Consent:
    """Return a consent of `who`, signed by itself or by `key`."""
    signature = (key or anvil_key(who)).sign_digest(consent_digest(domain, address(who), spent))
    return Consent(NanoUsd(spent), signature)


class MemoryDriver:
    """The twin."""

    def __init__(
        self, *, treasury: int = 100 * USD, bond: int = 100 * USD, kind: type[MemoryChain] = MemoryChain
    ) -> None:
        start = int(time.time())
        coordinator = anvil_key(COORDINATOR)
        self.clock = EpochClock(start, LONG_TERMS.epoch_length)
        self.domain = Domain(31337, MEMORY_LEDGER)
        secret = audit_secret(coordinator, chain_id=31337, genesis=start, first_epoch=0)
        ledger = MemoryLedger(
            self.domain, self.clock, coordinator.address, audit_secret_hash(secret), thaw=LONG_TERMS.thaw
        )
        self.memory = kind(ledger, start=start)
        self.memory.deposit_bond(bond)
        self.memory.deposit(address(OWNER), treasury, 2**63 - 1)
        self.chain: Chain = self.memory
        self.sender: Sender = self.memory

    async def deposit(self, who: int, amount: int, authorized: int = 0) -> None:
        self.memory.deposit(address(who), amount, authorized)

    async def authorize(self, who: int, authorized: int) -> None:
        self.memory.authorize(address(who), authorized)

    async def add_consent_key(self, who: int, key: Address) -> None:
        self.memory.add_consent_key(address(who), key)

    async def request_withdrawal(self, who: int, amount: int) -> None:
        self.memory.request_withdrawal(address(who), amount)

    async def withdraw(self, who: int) -> None:
        self.memory.withdraw(address(who))

    async def cash(self, who: int, epoch: int, earned: int) -> None:
        self.memory.cash(address(who), earned)

    async def mine(self, blocks: int = 1) -> None:
        self.memory.mine(blocks)

    async def wait(self, seconds: int) -> None:
        self.memory.wait(seconds)

    async def reorganise(self, depth: int) -> None:
        self.memory.reorganise(depth)

    async def hold_back(self, is_on: bool) -> None:
        self.memory.holds_back = is_on


class EvmDriver:
    """Anvil, with the contracts deployed."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.chain: Chain = EvmChain(market.connection, market.deployment)
        self.sender: Sender = EvmSender(market.connection, market.deployment, market.coordinator_key)
        self.clock = EpochClock(market.deployment.genesis, market.deployment.epoch_length)
        self.domain = market.deployment.ledger_domain
        self._wallets: dict[int, Wallet] = {}

    def wallet(self, who: int) -> Wallet:
        """Return the account's one wallet."""
        return self._wallets.setdefault(who, self.market.wallet(who))

    async def _send(self, who: int, function: str, *arguments: Any) -> None:
        await self.wallet(who).send(self.market.contracts.ledger.prepare(function, *arguments))

    async def deposit(self, who: int, amount: int, authorized: int = 0) -> None:
        await self.market.deposit(self.wallet(who), amount, authorized)

    async def authorize(self, who: int, authorized: int) -> None:
        await self._send(who, "authorize", authorized)

    async def add_consent_key(self, who: int, key: Address) -> None:
        await self._send(who, "addConsentKey", key)

    async def request_withdrawal(self, who: int, amount: int) -> None:
        await self._send(who, "requestWithdrawal", amount)

    async def withdraw(self, who: int) -> None:
        await self._send(who, "withdraw")

    async def cash(self, who: int, epoch: int, earned: int) -> None:
        digest = acknowledgement_digest(self.domain, address(who), epoch, earned)
        signature = self.market.coordinator_key.sign_digest(digest)
        await self._send(who, "cash", address(who), epoch, earned, signature)

    async def mine(self, blocks: int = 1) -> None:
        await self.market.mine(blocks)

    async def wait(self, seconds: int) -> None:
        await self.market.wait(seconds)

    async def reorganise(self, depth: int) -> None:
        await self.market.reorganise(depth)

    async def hold_back(self, is_on: bool) -> None:
        await self.market.connection.rpc("evm_setAutomine", not is_on)


@asynccontextmanager
async def chain_driver(
    kind: str, *, treasury: int = 100 * USD, bond: int = 100 * USD
) -> AsyncIterator[ChainDriver]:
    """Give a chain of a test's own: `memory` or `anvil`."""
    if kind == "memory":
        yield MemoryDriver(treasury=treasury, bond=bond)
        return
    with anvil_process() as url:
        async with market_at(url, deposit=treasury, bond=bond) as market:
            yield EvmDriver(market)

"""Cheques: the coordinator's signature under what an operator has earned, as far as its bond covers it.

A cheque is stored before it is sent. It is the same bytes whenever it is made again, so one that was lost
on the way is sent again when the operator's node comes back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from marketplace.domain.accounts import AccountKind
from marketplace.domain.ports.chain import Chain
from marketplace.domain.ports.clock import Clock
from marketplace.domain.ports.link import ProviderLink
from marketplace.services import ledger
from marketplace.services.alarms import alarm
from marketplace.storage.database import Database
from marketplace.storage.failpoints import reach
from marketplace.storage.queries import accounts
from marketplace.storage.queries import settlement as queries
from marketplace.storage.tables import Account
from tallystick.protocol.eip712 import Domain, acknowledgement_digest
from tallystick.protocol.frames import Acknowledged
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.money import NanoUsd

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Cover:
    """The bond, and what operators have earned beyond what the chain has credited; nano-dollars."""

    bond: NanoUsd
    outstanding: NanoUsd

    @property
    def room(self) -> int:
        """What may still be earned before the bond is used up."""
        return max(0, self.bond - self.outstanding)


class BondWatch:
    """Whether the bond covers more work. Work that has not matured counts: its cheque is only a lag away."""

    def __init__(self, database: Database, chain: Chain, coordinator: Address) -> None:
        self._database = database
        self._chain = chain
        self._coordinator = coordinator
        self._cover: Cover | None = None
        self._was_full = False

    async def look(self) -> Cover:
        """Read the bond and the books anew. Raises ChainUnavailable."""
        state = await self._chain.ledger()
        outstanding = await self._database.read(queries.outstanding)
        bond = state.bond if state.coordinator == self._coordinator else NanoUsd(0)
        self._cover = Cover(bond, NanoUsd(outstanding))
        is_full = self._cover.room == 0
        if is_full and not self._was_full:
            alarm("bond_used_up", bond=bond, outstanding=outstanding, coordinator=state.coordinator)
        self._was_full = is_full
        return self._cover

    def has_bond_room(self) -> bool:
        """Return whether more work may be taken, as of the last look; False before the first."""
        return self._cover is not None and self._cover.room > 0


class Cheques:
    """Signs what has matured, and tells the operators' nodes."""

    def __init__(
        self,
        database: Database,
        link: ProviderLink,
        clock: Clock,
        key: SigningKey,
        domain: Domain,
        promised_epoch: Callable[[int], int],
    ) -> None:
        self._database = database
        self._link = link
        self._clock = clock
        self._key = key
        self._domain = domain
        self._promised_epoch = promised_epoch
        self._greeted: set[tuple[Address, int]] = set()

    async def sign_due(self, bond: NanoUsd) -> int:
        """Sign a cheque for every operator with more matured than its last one says; return how many.

        What is signed and not settled never exceeds `bond`; who has waited longest comes first.
        """
        epoch = self._promised_epoch(self._clock.now_ms())
        due = await self._database.read(queries.unacknowledged)
        room = bond - await self._database.read(queries.acknowledged_unsettled)
        signed = 0
        for account in due:
            known = max(account.acknowledged, account.earned_settled)
            earned = min(account.earned, known + max(0, room))
            if earned <= account.acknowledged:
                continue
            room -= earned - known
            signed += await self._sign(account, NanoUsd(earned), epoch)
        return signed

    async def latest(self, operator: Address) -> Acknowledged | None:
        """Return the operator's last cheque, or None if it has none."""
        account = await self._database.read(lambda session: accounts.by_address(session, operator))
        if account is None or account.acknowledged == 0 or account.kind != AccountKind.WALLET:
            return None
        return self._cheque(operator, NanoUsd(account.acknowledged), account.acknowledged_epoch)

    async def greet(self) -> None:
        """Send the last cheque again to the operators of nodes that have connected since the last call."""
        connected = {(node.address, node.connected_at_ms): node.operator for node in self._link.nodes()}
        fresh = {operator for node, operator in connected.items() if node not in self._greeted}
        for operator in sorted(fresh):
            cheque = await self.latest(operator)
            if cheque is not None:
                await self._link.send(operator, cheque)
        self._greeted = set(connected)

    async def _sign(self, account: Account, earned: NanoUsd, epoch: int) -> bool:
        operator = Address(str(account.address))
        cheque = self._cheque(operator, earned, epoch)
        noted = await self._database.write(
            lambda session: ledger.note_acknowledged(session, account.id, earned, epoch)
        )
        reach("acknowledgements.stored")
        if noted:
            await self._link.send(operator, cheque)
            reach("acknowledgements.sent")
        return noted

    def _cheque(self, operator: Address, earned: NanoUsd, epoch: int) -> Acknowledged:
        digest = acknowledgement_digest(self._domain, operator, epoch, earned)
        signature = self._key.sign_digest(digest)
        return Acknowledged(account=operator, epoch=epoch, earned=earned, signature=signature)

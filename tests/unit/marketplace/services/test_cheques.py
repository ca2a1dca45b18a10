"""Cheques are signed for what matured, as far as the bond goes, and reach the operator's nodes."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marketplace.domain.ports.link import NodeView
from marketplace.services.acknowledgements import BondWatch, Cheques
from marketplace.services.alarms import ALARMS
from tallystick.anvil import anvil_key
from tallystick.protocol.eip712 import acknowledgement_digest
from tallystick.protocol.frames import Acknowledged, AnyFrame
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import recover
from tallystick.protocol.money import NanoUsd
from tests.support.anvil import COORDINATOR, USD
from tests.support.chains import MemoryDriver, address
from tests.support.nodes import a_view
from tests.support.settling import Town, town

ALICE, OPERATOR, RIVAL = 3, 6, 7


@dataclass
class Link:
    """A hub that keeps what was sent."""

    sent: list[tuple[Address, AnyFrame]] = field(default_factory=list)
    connected: list[NodeView] = field(default_factory=list)

    def nodes(self) -> list[NodeView]:
        return self.connected

    async def send(self, operator: Address, frame: AnyFrame) -> int:
        self.sent.append((operator, frame))
        return 1


def node_of(operator: int, *, connected_at_ms: int = 1) -> NodeView:
    return a_view(address(9), address(operator), connected_at_ms=connected_at_ms)


@pytest.fixture
async def small_town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town("memory", tmp_path, bond=5 * USD) as made:
        yield made


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def cheques(small_town: Town, link: Link) -> Cheques:
    return Cheques(
        small_town.database,
        link,  # type: ignore[arg-type]
        small_town.clock,
        anvil_key(COORDINATOR),
        small_town.driver.domain,
        small_town.terms.promised_epoch,
    )


async def test_a_cheque_says_what_matured_and_is_signed_by_the_coordinator(
    small_town: Town, link: Link, cheques: Cheques
) -> None:
    alice = await small_town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await small_town.work(alice, OPERATOR, 2 * USD)
    assert await cheques.sign_due(NanoUsd(5 * USD)) == 1
    [(operator, cheque)] = link.sent
    assert isinstance(cheque, Acknowledged)
    assert operator == cheque.account == address(OPERATOR)
    assert cheque.earned == 1_900_000_000
    running = small_town.terms.epochs.at((await small_town.driver.chain.head()).timestamp)
    assert cheque.epoch == running + small_town.terms.longest_wait_epochs + 1
    digest = acknowledgement_digest(small_town.driver.domain, cheque.account, cheque.epoch, cheque.earned)
    assert recover(digest, cheque.signature) == address(COORDINATOR)
    assert await cheques.sign_due(NanoUsd(5 * USD)) == 0
    assert await cheques.latest(address(OPERATOR)) == cheque


async def test_work_that_has_not_matured_is_not_acknowledged(
    small_town: Town, link: Link, cheques: Cheques
) -> None:
    alice = await small_town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await small_town.work(alice, OPERATOR, 2 * USD, matures=False)
    assert await cheques.sign_due(NanoUsd(5 * USD)) == 0
    assert await cheques.latest(address(OPERATOR)) is None


async def test_what_is_acknowledged_and_not_settled_never_exceeds_the_bond(
    small_town: Town, link: Link, cheques: Cheques
) -> None:
    alice = await small_town.consumer(ALICE, 20 * USD, authorized=20 * USD)
    await small_town.work(alice, OPERATOR, 4 * USD)
    await small_town.work(alice, RIVAL, 4 * USD)
    await cheques.sign_due(NanoUsd(5 * USD))
    said = [cheque.earned for _, cheque in link.sent if isinstance(cheque, Acknowledged)]
    assert sorted(said) == [1_200_000_000, 3_800_000_000]
    await small_town.end_epoch()
    await small_town.settle()
    await cheques.sign_due(NanoUsd(5 * USD))
    for who in (OPERATOR, RIVAL):
        assert (await small_town.account(address(who))).acknowledged == 3_800_000_000


async def test_a_cheque_from_the_chain_pays_exactly_what_was_not_settled(
    small_town: Town, cheques: Cheques
) -> None:
    assert isinstance(small_town.driver, MemoryDriver)
    alice = await small_town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await small_town.work(alice, OPERATOR, 2 * USD)
    await cheques.sign_due(NanoUsd(5 * USD))
    cheque = await cheques.latest(address(OPERATOR))
    assert cheque is not None
    await small_town.driver.cash(OPERATOR, cheque.epoch, cheque.earned)
    await small_town.confirm()
    account = await small_town.account(address(OPERATOR))
    assert account.earned_settled == account.earned == cheque.earned


async def test_a_node_that_comes_back_gets_its_operators_last_cheque_once(
    small_town: Town, link: Link, cheques: Cheques
) -> None:
    alice = await small_town.consumer(ALICE, 10 * USD, authorized=10 * USD)
    await small_town.work(alice, OPERATOR, 2 * USD)
    await cheques.sign_due(NanoUsd(5 * USD))
    link.sent.clear()
    link.connected = [node_of(OPERATOR)]
    await cheques.greet()
    await cheques.greet()
    assert [operator for operator, _ in link.sent] == [address(OPERATOR)]
    link.connected = [node_of(OPERATOR, connected_at_ms=2)]
    await cheques.greet()
    assert len(link.sent) == 2


async def test_no_more_work_is_taken_when_the_bond_is_used_up(small_town: Town) -> None:
    before = ALARMS.labels("bond_used_up")._value.get()
    bond = BondWatch(small_town.database, small_town.driver.chain, address(COORDINATOR))
    assert not bond.has_bond_room()
    await bond.look()
    assert bond.has_bond_room()
    alice = await small_town.consumer(ALICE, 20 * USD, authorized=20 * USD)
    await small_town.work(alice, OPERATOR, 6 * USD, matures=False)
    await bond.look()
    await bond.look()
    assert not bond.has_bond_room()
    assert ALARMS.labels("bond_used_up")._value.get() == before + 1
    small_town.driver.memory.deposit_bond(2 * USD)  # type: ignore[attr-defined]
    assert (await bond.look()).room == 1_300_000_000
    assert bond.has_bond_room()


async def test_a_coordinator_that_stepped_down_takes_no_work(small_town: Town) -> None:
    other = BondWatch(small_town.database, small_town.driver.chain, address(RIVAL))
    await other.look()
    assert not other.has_bond_room()

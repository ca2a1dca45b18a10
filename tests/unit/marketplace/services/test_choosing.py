"""Waiting for a node: a free slot is found by whoever in line can use it, the first of them first."""

import asyncio
from dataclasses import replace

from marketplace.domain.history import History
from marketplace.domain.ports.clock import SystemClock
from marketplace.domain.ports.link import Ask, NodeView
from marketplace.domain.routing import Wanted
from marketplace.services.choosing import Chooser
from marketplace.services.slots import Slots
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd
from tests.support.hubs import eventually
from tests.support.nodes import a_view, operator_of

MODEL = ModelId(b"m" * 32)
ANY = Wanted(MODEL, 1, 1)
CHEAP, DEAR = NanoUsd(100), NanoUsd(300)
FRUGAL = replace(ANY, max_output_price=CHEAP)


def a_node(number: int, price: NanoUsd, region: str = "", slots: int = 1) -> NodeView:
    asks = {MODEL: Ask(price, price, slots, paused=False)}
    return replace(a_view(operator_of(number), operator_of(number)), asks=asks, region=region)


class Link:
    """Nodes that are there; choosing asks a link for nothing else."""

    def __init__(self, *nodes: NodeView) -> None:
        self.nodes = nodes
        self.asked = 0

    def serving(self, model_id: ModelId) -> tuple[NodeView, ...]:
        self.asked += 1
        return self.nodes


class Line:
    """Jobs that wait for the nodes of a link, all of whose slots are taken at first."""

    def __init__(self, *nodes: NodeView) -> None:
        self.link, self.slots = Link(*nodes), Slots()
        self.chooser = Chooser(self.link, self.slots, History(), SystemClock())  # type: ignore[arg-type]
        for node in nodes:
            for _ in range(node.asks[MODEL].slots):
                self.slots.claim(node.address, MODEL)
        self.got: list[tuple[str, Address]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def join(self, name: str, wanted: Wanted) -> None:
        async def wait() -> None:
            node = await self.chooser.claim(wanted, patience=60, hopeful=False)
            assert node is not None
            self.got.append((name, node.address))

        waiting = self.slots.waiting()
        self.tasks.append(asyncio.create_task(wait()))
        await eventually(lambda: self.slots.waiting() == waiting + 1)

    async def all_got_one(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self.tasks)


async def test_a_slot_that_the_first_in_line_cannot_use_goes_to_the_next_that_can() -> None:
    cheap, dear = a_node(1, CHEAP), a_node(2, DEAR)
    line = Line(cheap, dear)
    await line.join("frugal", FRUGAL)
    await line.join("frugal too", FRUGAL)
    await line.join("rich", ANY)
    await line.join("rich too", ANY)
    line.slots.free(dear.address, MODEL)
    await eventually(lambda: line.got == [("rich", dear.address)])
    line.slots.free(cheap.address, MODEL)
    await eventually(lambda: line.got[1:] == [("frugal", cheap.address)])
    line.slots.free(dear.address, MODEL)
    line.slots.free(cheap.address, MODEL)
    await line.all_got_one()
    assert sorted(line.got[2:]) == [("frugal too", cheap.address), ("rich too", dear.address)]


async def test_one_that_takes_another_slot_leaves_its_turn_to_the_next() -> None:
    cheap, dear = a_node(1, CHEAP), a_node(2, DEAR)
    line = Line(cheap, dear)
    await line.join("frugal", FRUGAL)
    await line.join("rich", ANY)
    line.slots.free(dear.address, MODEL)
    line.slots.free(cheap.address, MODEL)
    await line.all_got_one()
    assert sorted(line.got) == [("frugal", cheap.address), ("rich", dear.address)]


async def test_a_slot_that_nobody_in_line_can_use_asks_each_once_and_is_quiet_then() -> None:
    cheap, dear = a_node(1, CHEAP), a_node(2, DEAR)
    line = Line(cheap, dear)
    for number in range(20):
        await line.join(f"frugal {number}", FRUGAL)
    asked = line.link.asked
    line.slots.free(dear.address, MODEL)
    for _ in range(200):
        await asyncio.sleep(0)
    assert line.slots.waiting() == 20
    assert line.link.asked - asked <= 2 * 20
    for number in range(20):
        line.slots.free(cheap.address, MODEL)
        await eventually(lambda: len(line.got) == number + 1)  # noqa: B023  # awaited in its own round
    assert [name for name, _ in line.got] == [f"frugal {number}" for number in range(20)]


async def test_one_that_leaves_with_its_turn_leaves_it_to_the_next() -> None:
    node = a_node(1, CHEAP)
    line = Line(node)
    await line.join("gone", ANY)
    await line.join("here", ANY)
    line.slots.free(node.address, MODEL)
    line.tasks.pop(0).cancel()
    await line.all_got_one()
    assert line.got == [("here", node.address)]

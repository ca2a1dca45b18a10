"""Slots: no claim is lost, nobody who waits is forgotten, or asked twice for one slot."""

import asyncio

from marketplace.services.slots import Slots, Turn
from tallystick.protocol.ids import Address, ModelId

NODE, MODEL = Address("0x" + "01" * 20), ModelId(b"m" * 32)


async def test_claims_are_counted_by_node_and_model() -> None:
    slots = Slots()
    slots.claim(NODE, MODEL)
    slots.claim(NODE, MODEL)
    assert (slots.load(NODE, MODEL), slots.load(NODE, ModelId(b"n" * 32))) == (2, 0)
    slots.free(NODE, MODEL)
    slots.free(NODE, MODEL)
    assert slots.load(NODE, MODEL) == 0


async def test_a_freed_slot_wakes_the_one_that_has_waited_longest() -> None:
    slots = Slots()
    order: list[int] = []

    async def wait(number: int) -> None:
        assert await slots.wait(MODEL, 5, slots.place())
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for count in range(1, 4):
        slots.claim(NODE, MODEL)
        slots.free(NODE, MODEL)
        await asyncio.sleep(0.01)
        assert order == list(range(count))
    await asyncio.gather(*tasks)


async def test_waiting_ends_after_the_timeout_and_leaves_no_trace() -> None:
    slots = Slots()
    assert not await slots.wait(MODEL, 0.01, slots.place())
    assert slots.waiting() == 0


async def test_a_turn_that_nobody_takes_is_passed_on() -> None:
    slots = Slots()
    first = asyncio.create_task(slots.wait(MODEL, 5, slots.place()))
    second = asyncio.create_task(slots.wait(MODEL, 5, slots.place()))
    await asyncio.sleep(0)
    slots.claim(NODE, MODEL)
    slots.free(NODE, MODEL)
    first.cancel()
    await asyncio.wait({first})
    assert await asyncio.wait_for(second, 1)
    assert slots.waiting() == 0


async def test_everybody_looks_again_when_a_node_comes() -> None:
    slots = Slots()
    waiting = [asyncio.create_task(slots.wait(MODEL, 5, slots.place())) for _ in range(5)]
    await asyncio.sleep(0)
    slots.wake_all()
    assert await asyncio.gather(*waiting) == [Turn(None)] * 5


async def test_the_queue_has_an_end() -> None:
    slots = Slots(most_waiting=1)
    assert slots.has_queue_room(MODEL)
    waiting = asyncio.create_task(slots.wait(MODEL, 0.05, slots.place()))
    await asyncio.sleep(0)
    assert not slots.has_queue_room(MODEL)
    await waiting


async def test_a_turn_is_passed_backwards_only_and_who_passed_it_on_keeps_its_place() -> None:
    slots, free = Slots(), Turn(NODE)
    looked: list[int] = []

    async def wait(number: int) -> None:
        place = slots.place()
        for _ in range(2):
            turn = await slots.wait(MODEL, 5, place)
            assert turn == free
            looked.append(number)
            slots.pass_on(MODEL, turn, place)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for rounds in (1, 2):
        slots.pass_on(MODEL, free)
        await asyncio.sleep(0.01)
        assert looked == [0, 1, 2] * rounds
    await asyncio.gather(*tasks)
    assert slots.waiting() == 0

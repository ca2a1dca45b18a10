"""The parts of `scripts/bench gateway` that could measure the wrong thing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from scripts.benches.gateway.load import drive, request_bytes, summary
from scripts.benches.gateway.ours import Target
from scripts.benches.gateway.profiling import LOOP, shares
from scripts.benches.gateway.upstream import Exchange

TEXT = "hello, " * 20


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Give the address of an echo server."""
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    server.close()


def request(url: str, *, stream: bool, text: str = TEXT) -> bytes:
    target = Target("echo", url, (), "echo", "echo", 0, ())
    return request_bytes(url, (), target.body(text, max_tokens=400, stream=stream).encode())


@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_is_counted_with_its_tokens(url: str, stream: bool) -> None:
    done = await drive(url, request(url, stream=stream), connections=3, seconds=0.1, pace=0)
    figures = summary(*done)
    assert figures["answers"] >= 3
    assert figures["tokens"] == figures["answers"] * len(TEXT)
    assert figures["problems"] == 0


async def test_a_refusal_is_a_problem_and_no_answer(url: str) -> None:
    done = await drive(url, request_bytes(url, (), b""), connections=1, seconds=0.05, pace=0)
    figures = summary(*done)
    assert figures["answers"] == 0
    assert figures["problems"] > 0


async def test_a_slow_reader_takes_its_time(url: str) -> None:
    pace, piece = 2_000_000, 65_536
    asked = request(url, stream=True, text=TEXT * 50)
    slow, seconds, _ = await drive(url, asked, connections=1, seconds=0.01, pace=pace)
    assert len(slow.latencies) == 1
    assert slow.body_bytes > 10 * piece
    # It waits after all but the last piece, which ends the answer.
    assert seconds >= (slow.body_bytes - piece) / pace


def test_a_sample_belongs_to_its_innermost_known_room() -> None:
    samples = "\n".join(
        [
            "run (uvicorn/server.py:1);capture (marketplace/services/ledger/captures.py:2) 6",
            "run (uvicorn/server.py:1);sign (coincurve/keys.py:3);call (cffi/api.py:1) 3",
            "run (asyncio/runners.py:1) 1",
        ]
    )
    found = dict(shares(samples))
    assert found["books: statements and commits"] == pytest.approx(0.6)
    assert found["receipts: checked and signed for"] == pytest.approx(0.3)
    assert found[LOOP] == pytest.approx(0.1)

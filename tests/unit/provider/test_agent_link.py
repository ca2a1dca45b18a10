"""The agent and a coordinator that says what a script wants: receipts, promises, refusals, ends."""

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from provider.agent import Agent
from provider.engines.echo import EchoEngine
from provider.link import LinkRefused, LinkSession
from tallystick.protocol.eip712 import receipt_digest
from tallystick.protocol.frames import (
    MAX_MESSAGE_BYTES,
    Blob,
    BlobRequest,
    Cancel,
    Draining,
    Failed,
    Finished,
    Goodbye,
    Heartbeat,
    ReceiptRefused,
    Tokens,
)
from tallystick.protocol.receipts import Finish
from tests.support.agents import (
    Line,
    a_cheque,
    a_config,
    a_job,
    a_taken,
    an_agent,
    idle,
    running,
    scripted_coordinator,
)
from tests.support.hubs import IDENTITY, eventually
from tests.support.nodes import DOMAIN, key_of, operator_of


async def test_a_receipt_stays_pending_until_it_is_answered_and_is_sent_again(tmp_path: Path) -> None:
    sent: list[Finished] = []

    async def lose(line: Line) -> None:
        await line.send(a_job(agent))
        sent.append(await line.next(Finished))

    async def take(line: Line) -> None:
        sent.append(await line.next(Finished))
        await line.send(a_taken(receipt_digest(DOMAIN, sent[-1].receipt.receipt)))
        await idle(line)

    async with scripted_coordinator(lose, take) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: len(sent) == 2)
            assert sent[0] == sent[1]
            await eventually(lambda: agent.evidence.pending_count() == 0)
            assert agent.evidence.recent(1)[0].taken_epoch == 5


async def test_a_job_that_was_signed_for_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    codes: list[str] = []

    async def once(line: Line) -> None:
        await line.send(a_job(agent))
        await line.next(Finished)

    async def again(line: Line) -> None:
        await line.send(a_job(agent))
        codes.append((await line.next(Failed)).code)
        await line.send(a_job(agent, attempt=1))
        codes.append(Finish((await _finished(line, 1)).receipt.receipt.finish).name)
        await idle(line)

    async with scripted_coordinator(once, again) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: agent.evidence.pending_count() == 1)
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: len(codes) == 2)
    assert codes == ["replay", "EOS"]


async def test_an_attempt_that_runs_is_not_started_twice(tmp_path: Path) -> None:
    codes: list[str] = []

    async def twice(line: Line) -> None:
        await line.send(a_job(agent), a_job(agent))
        codes.append((await line.next(Failed)).code)
        await line.next(Finished)
        await idle(line)

    async with scripted_coordinator(twice) as url:
        agent = an_agent(a_config(url), tmp_path, engine=EchoEngine(seconds_per_token=0.01))
        async with running(agent):
            await eventually(lambda: agent.jobs.done == 1)
    assert codes == ["replay"]


async def test_a_cancelled_job_is_signed_for_what_was_sent(tmp_path: Path) -> None:
    outcome: list[tuple[int, Finished]] = []

    async def cancel(line: Line) -> None:
        job = a_job(agent)
        await line.send(job)
        count = len((await line.next(Tokens)).ids)
        await line.send(Cancel(job_id=job.job_id, attempt=0))
        async with asyncio.timeout(5):
            while not any(isinstance(frame, Finished) for frame in line.received):
                line.received += [await line.next(Tokens | Finished)]  # type: ignore[arg-type]
        count += sum(len(frame.ids) for frame in line.received if isinstance(frame, Tokens))
        outcome.append((count, line.received[-1]))  # type: ignore[arg-type]
        await idle(line)

    async with scripted_coordinator(cancel) as url:
        engine = EchoEngine(tokens_per_event=1, seconds_per_token=0.05, copies=10)
        agent = an_agent(a_config(url), tmp_path, engine=engine)
        async with running(agent):
            await eventually(lambda: bool(outcome))
    ((count, finished),) = outcome
    receipt = finished.receipt.receipt
    assert (receipt.finish, receipt.output_tokens, receipt.text_bytes) == (Finish.CANCELLED, count, count)
    assert 0 < count < 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chain_id": 1}, "configured for"),
        ({"ledger": operator_of(3)}, "configured for"),
        ({"fee_bps": 2001}, "2001 basis points"),
        ({"version": 2}, "protocol 2"),
    ],
)
async def test_a_coordinator_of_another_market_or_dearer_than_agreed_is_left(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    challenge = msgspec.structs.replace(IDENTITY.challenge(), **change)
    async with scripted_coordinator(idle, challenge=challenge) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent) as task:
            with pytest.raises(LinkRefused, match=reason):
                await asyncio.wait_for(asyncio.shield(task), 5)


async def test_goodbye_for_good_ends_the_agent_and_goodbye_for_now_does_not(tmp_path: Path) -> None:
    calls: list[str] = []

    async def later(line: Line) -> None:
        calls.append("later")
        await line.send(Goodbye(code="closing", message="restarting", retry=True))

    async def never(line: Line) -> None:
        calls.append("never")
        await line.send(Goodbye(code="banned", message="no more of you", retry=False))

    async with scripted_coordinator(later, never) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent) as task:
            with pytest.raises(LinkRefused, match=r"no more of you \(banned\)"):
                await asyncio.wait_for(asyncio.shield(task), 10)
    assert calls == ["later", "never"]


async def test_words_that_are_not_the_coordinators_count_for_nothing(tmp_path: Path) -> None:
    mallory = key_of(666)
    operator = operator_of(1)

    async def forge(line: Line) -> None:
        await line.send(a_job(agent))
        receipt_id = receipt_digest(DOMAIN, (await line.next(Finished)).receipt.receipt)
        await line.send(a_taken(receipt_id, key=mallory), a_cheque(operator, 10, key=mallory))
        await line.send(a_cheque(operator_of(2), 20), a_cheque(operator, 30))
        await idle(line)

    async with scripted_coordinator(forge) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: bool(agent.evidence.cheques(operator)))
            assert [cheque.earned for cheque in agent.evidence.cheques(operator)] == [30]
            assert agent.evidence.cheques(operator_of(2)) == []
            assert agent.evidence.pending_count() == 1


async def test_a_refused_receipt_is_kept_with_the_reason_and_not_sent_again(tmp_path: Path) -> None:
    async def refuse(line: Line) -> None:
        await line.send(a_job(agent))
        receipt_id = receipt_digest(DOMAIN, (await line.next(Finished)).receipt.receipt)
        await line.send(ReceiptRefused(receipt_id=receipt_id, reason="the text differs"))
        await idle(line)

    async with scripted_coordinator(refuse) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: agent.jobs.done == 1 and agent.evidence.pending_count() == 0)
            (kept,) = agent.evidence.recent(1)
            assert (kept.state, kept.reason) == ("refused", "the text differs")


class WithBlob(EchoEngine):
    """An echo with a file, as models with a tokenizer have one."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data

    def blob(self, sha256: bytes) -> bytes | None:
        """Return the file if this is its hash."""
        return self.data if hashlib.sha256(self.data).digest() == sha256 else None


async def test_a_file_larger_than_a_message_arrives_whole_between_heartbeats(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB
    assert len(data) > 2 * MAX_MESSAGE_BYTES
    pieces: list[Blob] = []

    async def ask(line: Line) -> None:
        await line.send(BlobRequest(sha256=hashlib.sha256(data).digest()), BlobRequest(sha256=b"\x01" * 32))
        while not pieces or pieces[-1].total:
            pieces.append(await line.next(Blob))
        await idle(line)

    async with scripted_coordinator(ask) as url:
        agent = an_agent(a_config(url), tmp_path, engine=WithBlob(data))
        async with running(agent):
            await eventually(lambda: bool(pieces) and not pieces[-1].total)
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.offset for piece in pieces[:-1]] == list(range(0, len(data), 512 * 1024))
    assert pieces[-1].sha256 == b"\x01" * 32


async def test_a_silent_coordinator_is_left_for_a_new_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider.link.LEAST_SILENCE_SECONDS", 0.3)
    monkeypatch.setattr("provider.link.SILENT_HEARTBEATS", 2)
    lines: list[Line] = []

    async def silent(line: Line) -> None:
        lines.append(line)
        await asyncio.sleep(10)

    async with scripted_coordinator(silent, idle) as url:
        agent = an_agent(a_config(url), tmp_path)
        async with running(agent):
            await eventually(lambda: agent.connected_since is not None)
            first = agent.connected_since
            await eventually(lambda: agent.connected_since not in (None, first))


async def test_draining_is_said_and_nothing_is_taken_afterwards(tmp_path: Path) -> None:
    said: list[str] = []

    async def offer_more(line: Line) -> None:
        await line.send(a_job(agent, 1))
        await line.next(Tokens)
        agent.drain()
        await line.next(Draining)
        await line.send(a_job(agent, 2))
        said.append((await line.next(Failed)).code)
        finished = await line.next(Finished)
        await line.send(a_taken(receipt_digest(DOMAIN, finished.receipt.receipt)))
        await idle(line)

    async with scripted_coordinator(offer_more) as url:
        engine = EchoEngine(tokens_per_event=1, seconds_per_token=0.02)
        agent = an_agent(a_config(url), tmp_path, engine=engine)
        async with running(agent) as task:
            await asyncio.wait_for(task, 5)
            assert agent.evidence.recent(1)[0].state == "taken"
    assert said == ["draining"]


async def test_an_agent_that_cannot_connect_leaves_at_once_when_asked(tmp_path: Path) -> None:
    agent = an_agent(a_config("ws://127.0.0.1:9/v1/nodes/connect"), tmp_path)
    async with running(agent) as task:
        await asyncio.sleep(0.1)
        agent.drain()
        await asyncio.wait_for(task, 1)


async def test_an_agent_in_a_handshake_that_hangs_leaves_at_once_when_asked(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    agent = an_agent(a_config(f"ws://127.0.0.1:{port}/v1/nodes/connect"), tmp_path)
    async with running(agent) as task:
        await asyncio.sleep(0.1)
        agent.drain()
        await asyncio.wait_for(task, 1)
    server.close()


async def test_an_engine_that_breaks_fails_its_job_and_no_other(tmp_path: Path) -> None:
    class Breaks(EchoEngine):
        async def generate(self, job):  # type: ignore[no-untyped-def]
            if job.prompt_text == "break":
                raise ZeroDivisionError("a bug")
            async for event in super().generate(job):
                yield event

    said: list[object] = []

    async def both(line: Line) -> None:
        await line.send(a_job(agent, 1, prompt_text="break"), a_job(agent, 2))
        said.append((await line.next(Failed)).code)
        said.append((await line.next(Finished)).receipt.receipt.job_id)
        await idle(line)

    async with scripted_coordinator(both) as url:
        agent = an_agent(a_config(url), tmp_path, engine=Breaks())
        async with running(agent):
            await eventually(lambda: len(said) == 2)
    assert said == ["engine", (2).to_bytes(32, "big")]


async def _finished(line: Line, attempt: int) -> Finished:
    """Return the receipt of an attempt; that of an earlier one is sent again first."""
    while True:
        found: Finished = await line.next(Finished)
        if found.receipt.receipt.attempt == attempt:
            return found


async def test_receipts_carry_the_height_that_the_node_saw_itself(tmp_path: Path) -> None:
    heights: list[int] = []

    async def heights_of(line: Line) -> None:
        await line.send(Heartbeat(at_ms=0, block_number=120), a_job(agent))
        heights.append((await line.next(Finished)).receipt.receipt.block_number)
        await idle(line)

    async with scripted_coordinator(heights_of) as url:
        for own in (0, 110):
            home = tmp_path / str(own)
            agent = _with_height(an_agent(a_config(url), home), own)
            async with running(agent):
                await eventually(lambda: len(heights) == (1 if own == 0 else 2))  # noqa: B023
    assert heights == [120, 110]


def _with_height(agent: Agent, height: int) -> Agent:
    model = next(iter(agent.models.values()))
    return Agent(
        agent.config,
        key_of(1),
        [model],
        agent.evidence,
        software="test",
        hardware="test",
        chain_height=lambda: height,
    )


async def test_work_of_somebody_who_does_not_settle_is_not_taken(tmp_path: Path) -> None:
    """Whose signature the Ledger does not know cannot promise anything, however well it is signed."""
    chain = [key_of(7).address]
    offers: list[Line] = []
    answered: list[Finished] = []

    async def offer(line: Line) -> None:
        offers.append(line)
        await line.send(a_job(agent))
        answered.append(await line.next(Finished))
        await idle(line)

    async with scripted_coordinator(offer) as url:
        agent = an_agent(a_config(url), tmp_path, settles=lambda: chain[0])
        async with running(agent):
            await eventually(lambda: len(offers) == 2)
            assert not answered
            assert agent.evidence.recent(1) == []
            chain[0] = IDENTITY.challenge().coordinator
            await eventually(lambda: len(answered) == 1)


async def test_a_connection_that_is_made_while_the_agent_is_ended_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = asyncio.Event()

    class Session:
        async def close(self) -> None:
            closed.set()

    async def dial(*_: object, **__: object) -> Session:
        asyncio.get_running_loop().call_soon(task.cancel)
        return Session()

    monkeypatch.setattr("provider.agent.dial", dial)
    async with running(an_agent(a_config(), tmp_path)) as task:
        await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert closed.is_set()


async def test_an_agent_that_is_ended_while_it_leaves_a_lost_connection_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = asyncio.Event()
    close = LinkSession.close

    async def noted(session: LinkSession) -> None:
        await close(session)
        closed.set()

    async def abandon() -> None:
        task.cancel()
        await asyncio.sleep(0.01)

    async def lose(line: Line) -> None:
        await line.next(Heartbeat)

    monkeypatch.setattr(LinkSession, "close", noted)
    async with scripted_coordinator(lose) as url:
        agent = an_agent(a_config(url), tmp_path)
        monkeypatch.setattr(agent.jobs, "abandon", abandon)
        async with running(agent) as task:
            await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert closed.is_set()

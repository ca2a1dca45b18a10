"""One job at a node: tokens go out as they are drawn; at the end a receipt is stored, then sent."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from provider.engines.base import (
    Engine,
    EngineBroken,
    EngineEnd,
    EngineError,
    EngineEvent,
    EngineJob,
    EngineTokens,
)
from provider.evidence import Evidence
from tallystick.protocol.commitments import (
    NO_SKETCH,
    numerics_class_id,
    opaque_output_commitment,
    output_commitment,
    parameters_hash,
    prompt_commitment,
)
from tallystick.protocol.eip712 import Domain, offer_hash, receipt_digest, sign_receipt
from tallystick.protocol.frames import AnyFrame, Failed, Finished, Job, Tokens
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.receipts import Finish, Offer, Receipt

Send = Callable[[AnyFrame], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every job of a node works with. `block_number` tells the chain's height as the node knows it."""

    key: SigningKey
    domain: Domain
    evidence: Evidence
    block_number: Callable[[], int]


@dataclass(slots=True)
class _Made:
    """What an attempt has made and sent so far."""

    started_at: int
    ids: list[int] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class RunningJob:
    """An attempt that runs; `stop` ends it early with a receipt for what was sent."""

    def __init__(self, job: Job, engine: Engine, bench: Bench, send: Send) -> None:
        self.job = job
        self._engine = engine
        self._bench = bench
        self._send = send
        self._made = _Made(started_at=_now_ms())
        self._stop: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()

    def stop(self, finish: Finish) -> None:
        """End the attempt now, signing for the tokens that were sent, with `finish` as the reason."""
        if not self._stop.done():
            self._stop.set_result(finish)

    async def run(self) -> Receipt | None:
        """Draw, send, sign, store, send the receipt, and return it.

        None if there is none: the engine failed, and the coordinator was told so.
        """
        try:
            end = await self._draw()
        except EngineError as error:
            self._fail(error.code, error.message)
            return None
        return await self._finish(end)

    async def _draw(self) -> EngineEnd:
        events = self._engine.generate(EngineJob.from_frame(self.job))
        following: asyncio.Future[EngineEvent] | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(events))
                await self._event_or_stop(following)
                if not following.done():
                    return self._stopped()
                match following.result():
                    case EngineTokens() as tokens:
                        self._forward(tokens)
                    case EngineEnd() as end:
                        return end
        except StopAsyncIteration as error:
            raise EngineBroken("engine", "the engine stopped without saying why") from error
        finally:
            if following is not None and not following.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    def _stopped(self) -> EngineEnd:
        """Return the end of an attempt that was stopped; an engine without ids has counted what was sent.

        Nobody can go on from a part without ids, so one that is handed over is not charged for.
        """
        finish, made = self._stop.result(), self._made
        if finish is not Finish.CANCELLED:
            return EngineEnd(finish)
        return EngineEnd(finish, prompt_tokens=made.prompt_tokens, output_tokens=made.output_tokens)

    async def _event_or_stop(self, following: "asyncio.Future[EngineEvent]") -> None:
        """Return when the engine has said something, or the attempt is to stop here."""
        if self._has_ended():
            # Only the last of the text is missing, and nobody can go on after an end token.
            await asyncio.wait((following,))
        else:
            await asyncio.wait((following, self._stop), return_when=asyncio.FIRST_COMPLETED)

    def _has_ended(self) -> bool:
        return bool(self._made.ids) and self._made.ids[-1] in self._engine.manifest.eos_ids

    def _forward(self, tokens: EngineTokens) -> None:
        self._made.ids.extend(tokens.ids)
        self._made.text.extend(tokens.text.encode())
        self._made.prompt_tokens = tokens.prompt_tokens
        self._made.output_tokens = tokens.output_tokens
        self._send(
            Tokens(
                job_id=self.job.job_id,
                attempt=self.job.attempt,
                position=tokens.position,
                ids=tokens.ids,
                text=tokens.text,
                logprobs=tokens.logprobs,
            )
        )

    async def _finish(self, end: EngineEnd) -> Receipt:
        receipt = self._receipt(end)
        signed = sign_receipt(self._bench.domain, receipt, self._bench.key)
        await self._bench.evidence.keep(receipt_digest(self._bench.domain, receipt), signed, end.stop)
        self._send(Finished(receipt=signed, stop=end.stop))
        return receipt

    def _fail(self, code: str, message: str) -> None:
        self._send(Failed(job_id=self.job.job_id, attempt=self.job.attempt, code=code, message=message[:500]))

    def _receipt(self, end: EngineEnd) -> Receipt:
        job, made = self.job, self._made
        commitment, output_tokens = self._output(end)
        prompt_tokens = end.prompt_tokens if end.prompt_tokens is not None else len(job.prompt_ids)
        offer = Offer(
            job_id=job.job_id,
            attempt=job.attempt,
            prompt_commitment=prompt_commitment(job.salt, job.prompt_ids),
            parameters_hash=parameters_hash(job.parameters),
            job_seed=job.job_seed,
            first_position=job.first_position,
            input_price=job.input_price,
            output_price=job.output_price,
        )
        return Receipt(
            **{name: getattr(offer, name) for name in Offer.__struct_fields__},
            offer_hash=offer_hash(offer),
            account=job.account,
            node=self._bench.key.address,
            model_id=job.model_id,
            output_commitment=commitment,
            prompt_tokens=prompt_tokens if job.bill_prompt else 0,
            output_tokens=output_tokens,
            finish=int(end.finish),
            text_bytes=len(made.text),
            sketch_root=NO_SKETCH,
            numerics_class=numerics_class_id(self._engine.manifest.numerics),
            fee_bps=job.fee_bps,
            started_at=made.started_at,
            finished_at=max(_now_ms(), made.started_at),
            block_number=self._bench.block_number(),
            nonce=secrets.token_bytes(32),
        )

    def _output(self, end: EngineEnd) -> tuple[bytes, int]:
        """Return the commitment to what was made, and how many tokens that is.

        A model without token ids commits to its text.
        """
        if not self._engine.manifest.tokenizer:
            return opaque_output_commitment(self.job.salt, bytes(self._made.text)), end.output_tokens or 0
        return output_commitment(self.job.salt, self._made.ids), len(self._made.ids)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

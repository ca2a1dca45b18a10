"""`Idempotency-Key`: a request that is sent twice does its work once.

    claim ──▶ the work ──▶ remember    what it made, for a day
                      └──▶ forget      it made nothing, so it may be tried again

Answers are never stored, nor what would let anybody guess a prompt: a repeat is told what the first made. A
job that cost nothing, because it failed or its reader left before the first token, leaves its key free again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from marketplace.domain.errors import AlreadyDone, BadRequest, KeyReused, StillRunning
from marketplace.domain.jobs import JobState
from marketplace.domain.ports.clock import Clock
from marketplace.storage.database import Database
from marketplace.storage.queries import jobs, receipts, repeats
from marketplace.storage.tables import JobRow
from tallystick.protocol.money import NanoUsd, format_usd

DAY_MS: Final = 86_400_000
MOST_CHARACTERS: Final = 255


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do the work of one key."""

    id: bytes


class Repeats:
    """Knows which keys were used. `lapse_ms`: how long work may take before nobody does it any more."""

    def __init__(self, database: Database, clock: Clock, lapse_ms: int) -> None:
        self._database = database
        self._clock = clock
        self._lapse_ms = lapse_ms

    async def claim(self, account_id: str, route: str, key: str, body: bytes) -> Claim:
        """Return the right to do the work that an account asks for with `key`.

        Raises AlreadyDone or StillRunning for a repeat, KeyReused for another body under the same key,
        BadRequest for a key that is none.
        """
        if not 0 < len(key) <= MOST_CHARACTERS or not key.isprintable():
            raise BadRequest(
                f"`Idempotency-Key` must have 1 to {MOST_CHARACTERS} printable characters.",
                param="Idempotency-Key",
            )
        key_id = _hash(account_id, route, key)
        fingerprint = hashlib.sha256(key_id + key.encode() + b"\0" + body).digest()
        now = self._clock.now_ms()
        lapses_at = now + self._lapse_ms

        def work(session: Session) -> None:
            if repeats.add(session, key_id, fingerprint, lapses_at):
                return
            seen = repeats.find(session, key_id)
            if seen is None:
                raise StillRunning()
            if seen.expires_at > now:
                if seen.fingerprint != fingerprint:
                    raise KeyReused()
                _check_made_nothing(session, seen.made)
            if not repeats.take_over(session, seen, fingerprint, lapses_at):
                raise StillRunning()

        await self._database.write(work)
        return Claim(key_id)

    async def remember(self, claim: Claim, made: str) -> None:
        """Note what the work made: `job/…` or `key/…`."""
        expires_at = self._clock.now_ms() + DAY_MS
        await self._database.write(lambda session: repeats.remember(session, claim.id, made, expires_at))

    async def forget(self, claim: Claim) -> None:
        """Let the key be used again: its work was refused."""
        await self._database.write(lambda session: repeats.forget(session, claim.id))

    async def sweep(self) -> int:
        """Forget keys that are older than a day; return how many."""
        now = self._clock.now_ms()
        return await self._database.write(lambda session: repeats.sweep(session, now))


def _check_made_nothing(session: Session, made: str | None) -> None:
    """Raise StillRunning or AlreadyDone unless what a request made has come to nothing."""
    if made is None:
        raise StillRunning()
    kind, _, name = made.partition("/")
    if kind != "job":
        raise AlreadyDone(
            f"It made the API key {name}, whose secret was shown once. Revoke it, and make another."
        )
    job = jobs.find(session, bytes.fromhex(name))
    if job is not None and job.state == JobState.ACCEPTED:
        raise StillRunning()
    if job is None:
        raise AlreadyDone("Its job was charged.")
    # Receipts say whether there was an answer; its charge does not, where a model costs nothing.
    ids = receipts.ids_of_job(session, job.id, payer_id=job.account_id)
    if job.state == JobState.DONE and ids:
        raise AlreadyDone(_charged(job, ids))


def _charged(job: JobRow, receipt_ids: Sequence[bytes]) -> str:
    ids = ", ".join("0x" + one.hex() for one in receipt_ids)
    return f"Its job 0x{job.id.hex()} was charged ${format_usd(NanoUsd(job.charge))}: receipts {ids}."


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()

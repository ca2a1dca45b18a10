"""Statements about jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.orm import Session

from marketplace.domain.jobs import JobState
from marketplace.storage.prepared import Prepared
from marketplace.storage.tables import JobRow

J = JobRow.__table__  # type: ignore[attr-defined]  # SQLModel makes it

RUNNING = text("state = 'accepted'")
"""As the index over the running jobs has it: with a parameter in it, SQLite would not use that index."""

_INSERTED = (
    "id",
    "account_id",
    "key_id",
    "model_id",
    "model_name",
    "hold",
    "input_price",
    "output_price",
    "fee_bps",
    "prompt_tokens",
    "accepted_at",
    "expires_at",
)
_insert = Prepared(
    insert(J).values(
        **{name: bindparam(name) for name in _INSERTED},
        state=JobState.ACCEPTED.value,
        charge=0,
        output_tokens=0,
    )
)
_close = Prepared(
    update(J)
    .where(J.c.id == bindparam("job_id"), J.c.state == JobState.ACCEPTED.value)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "state",
                "charge",
                "finish",
                "error",
                "prompt_tokens",
                "output_tokens",
                "finished_at",
            )
        }
    )
    .returning(J.c.hold, J.c.account_id, J.c.key_id)
)


@dataclass(frozen=True, slots=True)
class Held:
    """What an accepted job had set aside, and whose it is."""

    hold: int
    account_id: str
    key_id: str


def add(session: Session, **values: Any) -> None:
    """Store an accepted job."""
    _insert.run(session, **values)


def close(
    session: Session,
    job_id: bytes,
    state: JobState,
    *,
    now: int,
    charge: int = 0,
    finish: int | None = None,
    error: str | None = None,
    prompt_tokens: int,
    output_tokens: int,
) -> Held | None:
    """Close an accepted job and return its hold; None if it is not accepted (any more)."""
    row = _close.run(
        session,
        job_id=job_id,
        new_state=state.value,
        new_charge=charge,
        new_finish=finish,
        new_error=error,
        new_prompt_tokens=prompt_tokens,
        new_output_tokens=output_tokens,
        new_finished_at=now,
    ).fetchone()
    return None if row is None else Held(*row)


def find(session: Session, job_id: bytes) -> JobRow | None:
    """Return the job as it is now."""
    return session.scalar(select(JobRow).where(J.c.id == job_id).execution_options(populate_existing=True))


def expired(session: Session, now: int, limit: int) -> Sequence[bytes]:
    """Return up to `limit` accepted jobs whose hold has run out, the oldest first."""
    statement = select(J.c.id).where(RUNNING, J.c.expires_at <= now).order_by(J.c.expires_at).limit(limit)
    return session.scalars(statement).all()

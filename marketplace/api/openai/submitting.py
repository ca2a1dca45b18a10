"""A job is submitted once for each `Idempotency-Key`."""

from starlette.requests import Request

from marketplace.api.repeats import once
from marketplace.domain.errors import MarketError
from marketplace.domain.jobs import JobRequest
from marketplace.services.acceptance import Market
from marketplace.services.repeats import Repeats
from marketplace.services.running import RunningJob


async def submit_once(market: Market, repeats: Repeats, request: Request, job: JobRequest) -> RunningJob:
    """Return the running job. Raises what `Market.submit` and `once` raise; nothing is charged then."""
    running: RunningJob | None = None
    try:
        async with once(repeats, request, job.account_id) as made:
            running = await market.submit(job)
            made("job/" + running.accepted.id.hex())
    except MarketError:
        # Who is told that nothing was charged must not be: the job was accepted, but its key was not noted.
        if running is None or await market.call_off(running, "its Idempotency-Key could not be noted"):
            raise
    except BaseException:  # a cancelled request too must stop its job; nothing is swallowed
        if running is not None:
            await running.aclose()
        raise
    return running

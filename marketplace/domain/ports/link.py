"""How services reach nodes. Implementations live in `marketplace/transport`."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tallystick.protocol.frames import (
    AnyFrame,
    Failed,
    Finished,
    Hello,
    Job,
    ModelOffer,
    ReceiptRefused,
    ReceiptTaken,
    Tokens,
)
from tallystick.protocol.ids import Address, ModelId
from tallystick.protocol.money import NanoUsd


@dataclass(frozen=True, slots=True)
class Ask:
    """A node's price for a model, in nano-dollars per token, and how many jobs it takes at once."""

    input_price: NanoUsd
    output_price: NanoUsd
    slots: int
    paused: bool


@dataclass(frozen=True, slots=True)
class NodeView:
    """A connected node as it is now: what it said, and how it has done."""

    address: Address
    operator: Address
    region: str
    hardware: str
    asks: Mapping[ModelId, Ask]
    running: int
    draining: bool
    eligible: bool
    """Its stake is enough, it is active on the chain, and the market has not suspended it."""
    success: float
    """Share of recent jobs that ended well, 0–1."""
    first_token_ms: float
    tokens_per_second: float
    connected_at_ms: int


class NodeLost(Exception):
    """The node is not connected, or stopped answering; the job can go on elsewhere."""


class JobTooLarge(Exception):
    """The job, with the answer so far, fits no message to any node; that says nothing against this one."""


class JobStream(Protocol):
    """The frames of one attempt.

    Iteration ends after Finished or Failed; it raises NodeLost when the node goes.
    """

    def __aiter__(self) -> AsyncIterator[Tokens | Finished | Failed]: ...

    async def cancel(self) -> None:
        """Ask the node to stop; the stream still ends with Finished, Failed or NodeLost."""

    def close(self) -> None:
        """Forget the attempt; frames that still come are dropped."""

    def interrupt(self, reason: str) -> None:
        """Make the iteration raise NodeLost after the frames that are here already."""


class ProviderLink(Protocol):
    """The hub of connected nodes."""

    def nodes(self) -> Sequence[NodeView]:
        """Return the connected nodes."""

    def serving(self, model_id: ModelId) -> Sequence[NodeView]:
        """Return the connected nodes that ask a price for `model_id`, whatever their state."""

    def suspend(self, nodes: Collection[Address]) -> None:
        """Give these nodes no new jobs, connected or yet to come, and all others again."""

    async def open(self, node: Address, job: Job) -> JobStream:
        """Send `job` to `node`. Raises NodeLost if it is not there, JobTooLarge if no message holds it."""

    async def send(self, operator: Address, frame: AnyFrame) -> int:
        """Send `frame` to all of the operator's connected nodes; return how many got it."""

    def tell(self, node: Address, frame: AnyFrame) -> bool:
        """Send `frame` to one node; return whether it is connected."""

    async def fetch_blob(self, node: Address, sha256: bytes, *, limit: int) -> bytes:
        """Return a file of a manifest from `node`, its hash checked; `limit` is in bytes.

        Raises NodeLost if the node goes, BlobRefused if it has none, a larger one or another one, or does not
        send it in time.
        """


class BlobRefused(Exception):
    """A node did not give the file it was asked for."""


class NodeWatcher(Protocol):
    """Who wants to know what nodes do besides their jobs. None of these may block."""

    def joined(self, node: NodeView, hello: Hello) -> None:
        """A node has proved its key and is connected."""

    def offered(self, node: Address, models: Sequence[ModelOffer]) -> None:
        """A connected node has named its models and prices anew."""

    def left(self, node: Address) -> None:
        """A node is gone."""

    async def late_receipt(self, node: Address, finished: Finished) -> ReceiptTaken | ReceiptRefused | None:
        """Answer a receipt of an attempt that nobody waits for any more; None says nothing to the node."""

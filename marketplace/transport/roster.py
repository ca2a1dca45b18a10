"""The nodes that are connected, however they are: the part of a ProviderLink that needs no network."""

from collections.abc import Collection, Sequence

from marketplace.domain.history import History
from marketplace.domain.ports.link import JobStream, NodeLost, NodeView
from marketplace.transport.session import Session
from tallystick.protocol.frames import AnyFrame, Job, ModelOffer
from tallystick.protocol.ids import Address, ModelId


class Roster:
    """Implements ProviderLink over sessions that somebody else opens and ends."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._sessions: dict[Address, Session] = {}
        self._by_model: dict[ModelId, list[Session]] = {}
        self._suspended: Collection[Address] = frozenset()

    def add(self, session: Session) -> Session | None:
        """Take a node in; return its older session, which the caller must end."""
        older = self._sessions.get(session.address)
        session.set_suspended(session.address in self._suspended)
        self._sessions[session.address] = session
        self._index()
        return older

    def remove(self, session: Session) -> bool:
        """Drop a session; False if a newer one of the same node has taken its place."""
        if self._sessions.get(session.address) is not session:
            return False
        del self._sessions[session.address]
        self._index()
        return True

    def set_offers(self, session: Session, models: Sequence[ModelOffer]) -> None:
        """Replace a node's models and prices."""
        session.set_offers(models)
        self._index()

    def suspend(self, nodes: Collection[Address]) -> None:
        """Give these nodes no new jobs, connected or yet to come, and all others again."""
        self._suspended = nodes
        for session in self._sessions.values():
            session.set_suspended(session.address in nodes)

    def sessions(self) -> list[Session]:
        """Return the connected sessions."""
        return list(self._sessions.values())

    def nodes(self) -> Sequence[NodeView]:
        """Return the connected nodes."""
        return [session.view for session in self._sessions.values()]

    def serving(self, model_id: ModelId) -> Sequence[NodeView]:
        """Return the connected nodes that ask a price for `model_id`, whatever their state."""
        return [session.view for session in self._by_model.get(model_id, ())]

    async def open(self, node: Address, job: Job) -> JobStream:
        """Send `job` to `node`. Raises NodeLost if it is not there."""
        return self._session(node).open(job)

    async def send(self, operator: Address, frame: AnyFrame) -> int:
        """Send `frame` to all of the operator's connected nodes; return how many got it."""
        theirs = [session for session in self._sessions.values() if session.operator == operator]
        for session in theirs:
            session.send(frame)
        return len(theirs)

    def tell(self, node: Address, frame: AnyFrame) -> bool:
        """Send `frame` to one node; return whether it is connected."""
        session = self._sessions.get(node)
        if session is None:
            return False
        session.send(frame)
        return True

    async def fetch_blob(self, node: Address, sha256: bytes, *, limit: int) -> bytes:
        """Return a file of a manifest from `node`, its hash checked. Raises NodeLost or BlobRefused."""
        return await self._session(node).fetch_blob(sha256, limit=limit)

    def _session(self, node: Address) -> Session:
        session = self._sessions.get(node)
        if session is None:
            raise NodeLost(f"{node} is not connected")
        return session

    def _index(self) -> None:
        by_model: dict[ModelId, list[Session]] = {}
        for session in self._sessions.values():
            for model_id in session.view.asks:
                by_model.setdefault(model_id, []).append(session)
        self._by_model = by_model

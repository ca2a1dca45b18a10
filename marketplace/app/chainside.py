"""The chain and the coordinator's place on it, as the other parts know them."""

from dataclasses import dataclass

from marketplace.domain.epochs import EpochClock
from marketplace.domain.errors import ChainUnavailable
from marketplace.domain.ports.chain import ChainBlock
from marketplace.settings import Settings
from marketplace.transport.hub import ChainHead
from tallystick.deployment import Deployment
from tallystick.evm import Connection
from tallystick.protocol.keys import SigningKey

STALE_HEAD_SECONDS = 60


class Height:
    """The chain's head as it was last read, for those who need it without asking the chain."""

    def __init__(self, epochs: EpochClock) -> None:
        self._epochs = epochs
        self._block: ChainBlock | None = None

    def see(self, block: ChainBlock) -> None:
        """Remember a head."""
        self._block = block

    def number(self) -> int:
        """Return the height, 0 before the first look."""
        return self._block.number if self._block else 0

    def head(self) -> ChainHead:
        """Return the height and the epoch that runs by the chain's own time."""
        return ChainHead(self.number(), self._epochs.at(self._block.timestamp) if self._block else 0)

    async def check(self, now: int) -> str:
        """Return where the chain is. Raises ChainUnavailable if nobody has seen a block lately."""
        if self._block is None or now - self._block.timestamp > STALE_HEAD_SECONDS:
            raise ChainUnavailable(f"The chain's last block was seen at height {self.number()}, a while ago.")
        return f"block {self._block.number}"


@dataclass(frozen=True, slots=True)
class Chainside:
    """The chain and what is known of it before anything runs."""

    connection: Connection
    deployment: Deployment
    key: SigningKey
    is_local: bool

    @property
    def epochs(self) -> EpochClock:
        """How the Ledger counts epochs."""
        return EpochClock(self.deployment.genesis, self.deployment.epoch_length)


def read_key(settings: Settings) -> SigningKey:
    """Return the coordinator's key. Raises ValueError, naming the file but not its content."""
    path = settings.coordinator_key_file
    try:
        return SigningKey(bytes.fromhex(path.read_text().strip().removeprefix("0x")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a file with a private key in hexadecimal") from error

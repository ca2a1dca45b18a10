"""How the market writes to people. Implementations: `services/mail.py`."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mail:
    """A plain-text message to one address."""

    to: str
    subject: str
    text: str


class Mailer(Protocol):
    """Hands mails on."""

    async def send(self, mail: Mail) -> None:
        """Send it. Raises Unavailable if nobody takes it."""

"""A mail server that takes everything and shows it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default


@dataclass
class Mails:
    """What was taken, the oldest first."""

    url: str
    taken: list[bytes] = field(default_factory=list)

    def last_link(self) -> str:
        """Return the link in the mail that came last."""
        text = message_from_bytes(self.taken[-1], policy=default).get_content()
        found = re.search(r"https?://\S+\?token=\S+", text)
        assert found is not None, text
        return found[0]


@asynccontextmanager
async def mail_server() -> AsyncIterator[Mails]:
    """Serve SMTP on loopback."""
    mails = Mails("")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            match line.split()[0].upper():
                case b"DATA":
                    writer.write(b"354 go on\r\n")
                    mails.taken.append(await reader.readuntil(b"\r\n.\r\n"))
                    writer.write(b"250 taken\r\n")
                case b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                case _:
                    writer.write(b"250 fine\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        mails.url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield mails

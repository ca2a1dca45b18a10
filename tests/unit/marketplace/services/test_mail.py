"""Mails reach a server as they were written, or lie in a folder that only their owner reads."""

import asyncio
import email
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from marketplace.domain.errors import Unavailable
from marketplace.domain.ports.mail import Mail
from marketplace.services.mail import FolderMailer, SmtpMailer, open_mailer

MAIL = Mail(
    to="carol@example.com", subject="Sign in", text="Open this link:\n\n    https://m/verify?token=tsv_x\n"
)


@asynccontextmanager
async def smtp_server(refuse: bytes = b"") -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that takes one mail, or answers DATA with `refuse`; gives its port and what it took."""
    taken: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            command = line.split()[0].upper()
            if command == b"DATA":
                writer.write(refuse or b"354 go on\r\n")
                if not refuse:
                    taken.append(await reader.readuntil(b"\r\n.\r\n"))
                    writer.write(b"250 taken\r\n")
            elif command == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 fine\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], taken


async def test_a_mail_reaches_the_server() -> None:
    async with smtp_server() as (port, taken):
        await SmtpMailer(f"smtp://127.0.0.1:{port}", "market@example.com").send(MAIL)
    message = email.message_from_bytes(taken[0])
    assert (message["To"], message["From"]) == ("carol@example.com", "market@example.com")
    assert b"token=tsv_x" in taken[0]


async def test_a_server_that_refuses_or_is_gone_is_unavailable() -> None:
    async with smtp_server(refuse=b"554 no\r\n") as (port, _):
        with pytest.raises(Unavailable):
            await SmtpMailer(f"smtp://127.0.0.1:{port}", "market@example.com").send(MAIL)
    with pytest.raises(Unavailable):
        await SmtpMailer(f"smtp://127.0.0.1:{port}", "market@example.com").send(MAIL)


async def test_without_a_server_mails_lie_in_a_folder(tmp_path: Path) -> None:
    mailer = open_mailer("", tmp_path / "mail", "market@example.com")
    assert isinstance(mailer, FolderMailer)
    await mailer.send(MAIL)
    (path,) = (tmp_path / "mail").iterdir()
    assert "token=tsv_x" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["mail.example.com", "http://mail.example.com", "smtp://"])
def test_what_is_no_smtp_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="smtp://"):
        SmtpMailer(url, "market@example.com")

"""Mails: through an SMTP server, or into a folder on a machine that has none."""

import asyncio
import secrets
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib
import structlog

from marketplace.domain.errors import Unavailable
from marketplace.domain.ports.mail import Mail, Mailer

log = structlog.get_logger(__name__)


class SmtpMailer:
    """Sends through `smtp://user:password@host:port` (STARTTLS if offered) or `smtps://…` (TLS)."""

    def __init__(self, url: str, sender: str, timeout_seconds: float = 20.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ValueError("an SMTP URL looks like smtp://user:password@host:587 or smtps://host:465")
        self._host = parts.hostname
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender = sender
        self._timeout = timeout_seconds

    async def send(self, mail: Mail) -> None:
        """Hand `mail` to the server. Raises Unavailable if it does not take it."""
        try:
            await aiosmtplib.send(
                _message(mail, self._sender),
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._tls,
                timeout=self._timeout,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            log.warning("mail_not_sent", error=str(error))
            raise Unavailable("The mail could not be sent; try again in a minute.", retry_after=60) from error


class FolderMailer:
    """Puts mails into a folder, one file each, and says so in the log; for a market on one machine."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        """Write `mail` to a new file, which only its owner can read."""
        path = await asyncio.to_thread(self._write, bytes(_message(mail, self._sender)))
        log.info("mail_written", to=mail.to, subject=mail.subject, file=str(path))

    def _write(self, content: bytes) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / f"{secrets.token_hex(8)}.eml"
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


def open_mailer(smtp_url: str, folder: Path, sender: str) -> Mailer:
    """Return a mailer for `smtp_url`, or one that writes into `folder` if it is empty."""
    return SmtpMailer(smtp_url, sender) if smtp_url else FolderMailer(folder, sender)


def _message(mail: Mail, sender: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message.set_content(mail.text)
    return message

"""The message of Sign-In with Ethereum (EIP-4361) as this market writes and reads it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import Address, to_address

STATEMENT = "Sign in to Tallystick. This signature moves no money."

_MESSAGE = re.compile(
    r"(?P<domain>[^\s/?#]+) wants you to sign in with your Ethereum account:\n"
    r"(?P<address>0x[0-9a-fA-F]{40})\n\n"
    r"(?:(?P<statement>[^\n]+)\n)?\n"
    r"URI: (?P<uri>[^\s]+)\n"
    r"Version: (?P<version>[0-9]+)\n"
    r"Chain ID: (?P<chain_id>[0-9]{1,20})\n"
    r"Nonce: (?P<nonce>[A-Za-z0-9]{8,64})\n"
    r"Issued At: (?P<issued_at>[^\s]+)"
    r"(?:\nExpiration Time: (?P<expires_at>[^\s]+))?"
    r"(?:\nNot Before: (?P<not_before>[^\s]+))?"
    r"(?:\nRequest ID: (?P<request_id>[^\n]*))?"
    r"(?:\nResources:(?:\n- [^\s]+)*)?"
)


class BadSignIn(ValueError):
    """A text that is not an EIP-4361 message, or has a wrong field."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """The fields of a sign-in message. `expires_at` None means that it does not expire."""

    domain: str
    address: Address
    uri: str
    chain_id: int
    nonce: str
    issued_at: datetime
    expires_at: datetime | None = None
    not_before: datetime | None = None
    version: str = "1"
    statement: str = STATEMENT

    def text(self) -> str:
        """Return the message to sign with `personal_sign`."""
        lines = [
            f"{self.domain} wants you to sign in with your Ethereum account:",
            checksummed(self.address),
            "",
            *([self.statement] if self.statement else []),
            "",
            f"URI: {self.uri}",
            f"Version: {self.version}",
            f"Chain ID: {self.chain_id}",
            f"Nonce: {self.nonce}",
            f"Issued At: {_rfc3339(self.issued_at)}",
        ]
        if self.expires_at is not None:
            lines.append(f"Expiration Time: {_rfc3339(self.expires_at)}")
        if self.not_before is not None:
            lines.append(f"Not Before: {_rfc3339(self.not_before)}")
        return "\n".join(lines)


def parse_sign_in(text: str) -> SignIn:
    """Return the fields of a sign-in message.

    Raises BadSignIn if it is none, a time is not RFC 3339, or a mixed-case address has a wrong checksum.
    """
    found = _MESSAGE.fullmatch(text)
    if found is None:
        raise BadSignIn("not an EIP-4361 message")
    address = to_address(found["address"])
    if found["address"] not in (checksummed(address), address):
        raise BadSignIn("the address has a wrong checksum")
    return SignIn(
        domain=found["domain"],
        address=address,
        uri=found["uri"],
        chain_id=int(found["chain_id"]),
        nonce=found["nonce"],
        issued_at=_time(found["issued_at"]),
        expires_at=_time(found["expires_at"]) if found["expires_at"] else None,
        not_before=_time(found["not_before"]) if found["not_before"] else None,
        version=found["version"],
        statement=found["statement"] or "",
    )


def personal_digest(text: str) -> bytes:
    """Return the digest that `personal_sign` signs for `text` (EIP-191, version 0x45)."""
    raw = text.encode()
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(raw)).encode() + raw)


def checksummed(address: Address) -> str:
    """Return `address` in the mixed case of EIP-55."""
    digits = address[2:]
    digest = keccak256(digits.encode()).hex()
    return "0x" + "".join(
        digit.upper() if int(digest[place], 16) >= 8 else digit for place, digit in enumerate(digits)
    )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        moment.astimezone(UTC)  # the calendar ends at year 9999, which a zone can overstep
    except (ValueError, OverflowError) as error:
        raise BadSignIn(f"not a time: {text!r}") from error
    if moment.tzinfo is None:
        raise BadSignIn(f"a time without a zone: {text!r}")
    return moment

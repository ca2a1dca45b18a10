"""Sign-In with Ethereum: our messages are read back, and everything else is refused."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey, recover
from tallystick.signin import BadSignIn, SignIn, checksummed, parse_sign_in, personal_digest

KEY = SigningKey((5).to_bytes(32, "big"))
MESSAGE = SignIn(
    domain="market.example:8080",
    address=KEY.address,
    uri="https://market.example:8080/v1/sessions",
    chain_id=31337,
    nonce="abcdEFGH1234",
    issued_at=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
)
LATER = datetime(2026, 1, 2, 3, 14, 5, tzinfo=UTC)

# The example of the specification, with a real checksum.
EXAMPLE = """example.com wants you to sign in with your Ethereum account:
0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2

I accept the ExampleOrg Terms of Service: https://example.com/tos

URI: https://example.com/login
Version: 1
Chain ID: 1
Nonce: 32891756
Issued At: 2021-09-30T16:25:24Z
Resources:
- ipfs://bafybeiemxf5abjwjbikoz4mc3a3dla6ual3jsgpdr4cjr3oz3evfyavhwq/
- https://example.com/my-web2-claim.json"""


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        replace(MESSAGE, expires_at=LATER),
        replace(MESSAGE, expires_at=LATER, not_before=LATER),
        replace(MESSAGE, statement=""),
    ],
)
def test_what_is_written_is_read_back(message: SignIn) -> None:
    assert parse_sign_in(message.text()) == message


def test_the_example_of_the_specification_is_read() -> None:
    found = parse_sign_in(EXAMPLE)
    assert (found.domain, found.chain_id, found.nonce) == ("example.com", 1, "32891756")
    assert found.address == "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
    assert found.statement.startswith("I accept")
    assert found.issued_at == datetime(2021, 9, 30, 16, 25, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Version: 1", "Version: x"),
        ("\n\nI accept", "\nI accept"),
        ("Nonce: 32891756", "Nonce: 3289175"),
        ("Nonce: 32891756", "Nonce: 3289-1756"),
        ("Chain ID: 1", "Chain ID: one"),
        ("0xC02aaA39", "0xc02aaA39"),
        ("0xC02aaA39", "0xC02aaA3"),
        ("2021-09-30T16:25:24Z", "2021-09-30T16:25:24"),
        ("2021-09-30T16:25:24Z", "yesterday"),
        ("example.com wants", "exa mple.com wants"),
        ("Resources:", "Extra: 1\nResources:"),
        ("URI: https://example.com/login\n", ""),
        ("I accept the", "I accept\nthe"),
    ],
)
def test_everything_else_is_refused(before: str, after: str) -> None:
    assert before in EXAMPLE
    with pytest.raises(BadSignIn):
        parse_sign_in(EXAMPLE.replace(before, after, 1))


def test_a_trailing_line_is_not_part_of_a_message() -> None:
    with pytest.raises(BadSignIn):
        parse_sign_in(MESSAGE.text() + "\n")


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
def test_a_time_beyond_the_calendar_is_refused(time: str) -> None:
    text = MESSAGE.text()
    issued = text.partition("Issued At: ")[2].partition("\n")[0]
    with pytest.raises(BadSignIn, match="not a time"):
        parse_sign_in(text.replace(issued, time))


def test_the_digest_is_the_one_that_wallets_sign() -> None:
    text = MESSAGE.text() + " – ünïcode"
    signed = Account.sign_message(encode_defunct(text=text), (5).to_bytes(32, "big"))
    assert recover(personal_digest(text), bytes(signed.signature)) == KEY.address


@pytest.mark.parametrize(
    "address",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0x52908400098527886E0F7030069857D2E4169EE7",
    ],
)
def test_checksums_are_those_of_eip_55(address: str) -> None:
    assert checksummed(Address(address.lower())) == address

"""EIP-2612 permits: a signature instead of an `approve` transaction."""

from dataclasses import dataclass
from typing import Any, Final

from tallystick.evm import Contract, NodeUnreachable, Reverted
from tallystick.protocol.ids import Address
from tallystick.protocol.money import TokenUnits

VERSIONS: Final = ("1", "2")
"""Of the signing domain; tokens do not agree on how to ask for theirs, so it is found by the separator."""

_TYPES: Final = {
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ]
}


class NoPermits(Exception):
    """The token takes no permits that we can sign; `approve` it is."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The arguments that `…WithPermit` functions end with. `deadline` is in seconds since 1970."""

    deadline: int
    v: int
    r: bytes
    s: bytes


async def sign_permit(
    token: Contract,
    secret: bytes,
    *,
    chain_id: int,
    owner: Address,
    spender: Address,
    units: TokenUnits,
    deadline: int,
) -> Permit:
    """Return `owner`'s permit for `spender` to take `units` of `token` until `deadline`.

    Raises NoPermits if the token has none, or of a kind that we do not know.
    """
    # Half a second to import, and most tokens' permits are never asked for.
    from eth_account import Account as EthAccount
    from eth_account.messages import encode_typed_data

    try:
        name = await token.read("name")
        nonce = await token.read("nonces", owner)
        separator = await token.read("DOMAIN_SEPARATOR")
    except (Reverted, NodeUnreachable) as error:
        raise NoPermits(f"the token at {token.address} has no permits") from error
    message = {"owner": owner, "spender": spender, "value": units, "nonce": nonce, "deadline": deadline}
    for version in VERSIONS:
        domain: dict[str, Any] = {
            "name": name,
            "version": version,
            "chainId": chain_id,
            "verifyingContract": token.address,
        }
        typed = encode_typed_data(domain, _TYPES, message)
        if typed.header == separator:
            signed = EthAccount.sign_message(typed, secret)
            return Permit(deadline, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big"))
    raise NoPermits(f"the permits of the token at {token.address} are of an unknown version")

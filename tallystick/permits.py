"""EIP-2612 permits: a signature instead of an `approve` transaction."""

from dataclasses import dataclass
from typing import Any

from eth_account import Account as EthAccount
from eth_account.messages import encode_typed_data

from tallystick.evm import Contract
from tallystick.protocol.ids import Address
from tallystick.protocol.money import TokenUnits

_TYPES = {
    "Permit": [
        {"name": "owner", "type": "address"},
        {"name": "spender", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "nonce", "type": "uint256"},
        {"name": "deadline", "type": "uint256"},
    ]
}


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

    Raises EvmError if the token cannot be read, KeyError if it has no permits.
    """
    name = await token.read("name")
    nonce = await token.read("nonces", owner)
    domain: dict[str, Any] = {
        "name": name,
        "version": "1",
        "chainId": chain_id,
        "verifyingContract": token.address,
    }
    message = {"owner": owner, "spender": spender, "value": units, "nonce": nonce, "deadline": deadline}
    signed = EthAccount.sign_message(encode_typed_data(domain, _TYPES, message), secret)
    return Permit(deadline, signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big"))

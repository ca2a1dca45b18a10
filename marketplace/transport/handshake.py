"""How a node proves who it is: it signs a fresh challenge, and the chain says whose node that key is."""

import os

from marketplace.domain.ports.stake import NodeStake, StakeBook
from tallystick.protocol.commitments import hello_digest
from tallystick.protocol.frames import (
    PROTOCOL_MINOR,
    PROTOCOL_VERSION,
    Challenge,
    Goodbye,
    Hello,
    ModelOffer,
    minor_of,
)
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.money import MOST_PRICE

MAX_MODELS = 64
MAX_MANIFEST_BYTES = 256 * 1024
MAX_WORDS = 200
"""Characters in a node's region, hardware and software."""


class Rejected(Exception):
    """The node may not come in; `goodbye` is what to tell it."""

    def __init__(self, code: str, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.goodbye = Goodbye(code=code, message=message, retry=retry)


def new_challenge(
    *, coordinator: Address, chain_id: int, ledger: Address, stake: Address, fee_bps: int, software: str
) -> Challenge:
    """Return a challenge with a nonce of its own."""
    return Challenge(
        version=PROTOCOL_VERSION,
        nonce=os.urandom(32),
        coordinator=coordinator,
        chain_id=chain_id,
        ledger=ledger,
        stake=stake,
        fee_bps=fee_bps,
        software=software,
        minor=PROTOCOL_MINOR,
    )


async def check_hello(hello: Hello, challenge: Challenge, stakes: StakeBook) -> NodeStake:
    """Return what stands behind the node that signed.

    Raises Rejected for another protocol version, a wrong signature, an unregistered or foreign key, or
    offers beyond the limits; ChainUnavailable if the chain cannot tell.
    """
    if hello.version != challenge.version:
        raise other_version(hello.version)
    if not is_signed(hello, challenge):
        raise Rejected(
            "signature", "The signature is not the node key's, or under another challenge.", retry=False
        )
    check_offers(hello.models)
    if max(len(hello.region), len(hello.hardware), len(hello.software), len(hello.engine)) > MAX_WORDS:
        raise Rejected(
            "too_long", f"Region, hardware and software have at most {MAX_WORDS} characters.", retry=False
        )
    stake = await stakes.node_stake(hello.node)
    check_stake(hello.node, hello.operator, stake)
    return stake


def other_version(theirs: int) -> Rejected:
    """Return why a node of another protocol version may not come in."""
    older = "node" if theirs < PROTOCOL_VERSION else "coordinator"
    return Rejected(
        "version",
        f"This coordinator speaks protocol {PROTOCOL_VERSION}, the node {theirs}: upgrade the {older}.",
        retry=False,
    )


def notice_for(hello: Hello) -> str:
    """Return what to tell the owner of a node of an older minor version; empty for none."""
    theirs = minor_of(hello)
    if theirs >= PROTOCOL_MINOR:
        return ""
    return (
        f"This node speaks protocol {PROTOCOL_VERSION}.{theirs}, the coordinator "
        f"{PROTOCOL_VERSION}.{PROTOCOL_MINOR}. It works; upgrade it when you can."
    )


def is_signed(hello: Hello, challenge: Challenge) -> bool:
    """Say whether the node's own key signed this challenge."""
    try:
        return recover(hello_digest(challenge), hello.signature) == hello.node
    except BadSignature:
        return False


def check_offers(models: tuple[ModelOffer, ...]) -> None:
    """Raise Rejected if there are too many models or a manifest is too large."""
    if len(models) > MAX_MODELS:
        raise Rejected("too_many_models", f"A node offers at most {MAX_MODELS} models.", retry=False)
    for offer in models:
        if len(offer.manifest) > MAX_MANIFEST_BYTES or len(offer.name) > MAX_WORDS:
            raise Rejected(
                "too_long", f"The manifest or name of {offer.name[:40]!r} is too long.", retry=False
            )
        if max(offer.input_price, offer.output_price) > MOST_PRICE:
            raise Rejected(
                "price", f"{offer.name[:40]!r} costs over $1 a token, the most there is.", retry=False
            )


def check_stake(node: Address, operator: Address, stake: NodeStake) -> None:
    """Raise Rejected unless the chain knows the node as an active one of `operator`."""
    if not stake.active:
        raise Rejected(
            "not_registered",
            f"{node} is not an active node on the chain. Register it: tallystick provider register",
            retry=True,
        )
    if stake.operator != operator:
        raise Rejected(
            "operator", f"On the chain {node} belongs to {stake.operator}, not {operator}.", retry=False
        )

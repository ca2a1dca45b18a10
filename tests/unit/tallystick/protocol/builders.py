"""Valid objects of the protocol, each with any field overridden, and hypothesis strategies for them."""

from typing import Any

from hypothesis import strategies as st

from tallystick.protocol.eip712 import Domain
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey
from tallystick.protocol.receipts import Offer, Receipt

NODE = SigningKey(b"\x01" * 32)
CONSUMER = SigningKey(b"\x02" * 32)
LEDGER = Domain(chain_id=31337, contract=Address("0x" + "5f" * 20))

u8, u16, u32, u63 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 63))
bytes32 = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(lambda raw: Address("0x" + raw.hex()))
keys = st.integers(1, 2**200).map(lambda number: SigningKey(number.to_bytes(32, "big")))


def make_receipt(**fields: Any) -> Receipt:
    """Return a receipt of NODE for CONSUMER."""
    given: dict[str, Any] = {
        "job_id": b"\x11" * 32,
        "attempt": 1,
        "offer_hash": b"\x12" * 32,
        "account": CONSUMER.address,
        "node": NODE.address,
        "model_id": b"\x13" * 32,
        "parameters_hash": b"\x14" * 32,
        "job_seed": b"\x15" * 32,
        "prompt_commitment": b"\x16" * 32,
        "output_commitment": b"\x17" * 32,
        "prompt_tokens": 20,
        "output_tokens": 100,
        "first_position": 0,
        "finish": 0,
        "text_bytes": 420,
        "sketch_root": bytes(32),
        "numerics_class": b"fp32".ljust(32, b"\0"),
        "input_price": 300,
        "output_price": 300,
        "fee_bps": 500,
        "started_at": 1_700_000_000_000,
        "finished_at": 1_700_000_004_000,
        "block_number": 99,
        "nonce": b"\x18" * 32,
    }
    return Receipt(**(given | fields))


receipts = st.builds(
    Receipt,
    job_id=bytes32,
    attempt=u32,
    offer_hash=bytes32,
    account=addresses,
    node=addresses,
    model_id=bytes32,
    parameters_hash=bytes32,
    job_seed=bytes32,
    prompt_commitment=bytes32,
    output_commitment=bytes32,
    prompt_tokens=u32,
    output_tokens=u32,
    first_position=u32,
    finish=u8,
    text_bytes=u32,
    sketch_root=bytes32,
    numerics_class=bytes32,
    input_price=u63,
    output_price=u63,
    fee_bps=u16,
    started_at=u63,
    finished_at=u63,
    block_number=u63,
    nonce=bytes32,
)
offers = st.builds(
    Offer,
    job_id=bytes32,
    attempt=u32,
    prompt_commitment=bytes32,
    parameters_hash=bytes32,
    job_seed=bytes32,
    first_position=u32,
    input_price=u63,
    output_price=u63,
)

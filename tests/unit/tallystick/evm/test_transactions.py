"""Our transactions are those that the whole world makes of the same fields and key."""

from eth_account import Account
from hypothesis import given
from hypothesis import strategies as some

from tallystick.evm import Fees, sign_transaction
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import SigningKey

SECRET = bytes(range(1, 33))


@given(
    nonce=some.integers(0, 2**32),
    gas=some.integers(21_000, 30_000_000),
    fee=some.integers(0, 10**12),
    value=some.integers(0, 10**20),
    data=some.binary(max_size=200),
    to=some.one_of(some.none(), some.binary(min_size=20, max_size=20)),
)
def test_a_signed_transaction_is_the_one_eth_account_signs(
    nonce: int, gas: int, fee: int, value: int, data: bytes, to: bytes | None
) -> None:
    ours = sign_transaction(
        SigningKey(SECRET),
        chain_id=31337,
        nonce=nonce,
        gas=gas,
        fees=Fees(2 * fee, fee),
        to=None if to is None else Address("0x" + to.hex()),
        data=data,
        value=value,
    )
    fields = {
        "chainId": 31337,
        "nonce": nonce,
        "gas": gas,
        "maxFeePerGas": 2 * fee,
        "maxPriorityFeePerGas": fee,
        "value": value,
        "data": data,
    }
    theirs = Account.sign_transaction(fields | ({} if to is None else {"to": to}), SECRET)
    assert ours.raw == bytes(theirs.raw_transaction)
    assert ours.hash == bytes(theirs.hash)


def test_bumped_fees_are_at_least_a_tenth_higher() -> None:
    for fees in (Fees(0, 0), Fees(7, 3), Fees(10**9, 10**8)):
        bumped = fees.bumped()
        assert bumped.max_fee * 10 >= fees.max_fee * 11
        assert bumped.priority_fee * 10 >= fees.priority_fee * 11
        assert bumped.max_fee > fees.max_fee

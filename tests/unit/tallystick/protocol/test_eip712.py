"""Digests packed by hand are those of a general EIP-712 encoder, and signatures those of a wallet."""

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.protocol import eip712
from tallystick.protocol.eip712 import BadField, Domain
from tallystick.protocol.ids import Address, ReceiptId
from tallystick.protocol.keys import BadSignature, SigningKey, recover
from tallystick.protocol.receipts import Offer, Receipt, SignedReceipt
from tests.unit.tallystick.protocol.builders import (
    LEDGER,
    NODE,
    addresses,
    bytes32,
    keys,
    make_receipt,
    offers,
    receipts,
    u63,
)

domains = st.builds(Domain, st.integers(0, 2**64 - 1), addresses)


def wallet_digest(domain: Domain, type_text: str, values: list[Any]) -> bytes:
    """The digest that eth-account finds for a struct of the given type."""
    name, _, fields = type_text.rstrip(")").partition("(")
    members = [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]
    message = encode_typed_data(
        {
            "name": "Tallystick",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        {name: members},
        dict(zip([member["name"] for member in members], values, strict=True)),
    )
    return keccak(b"\x19" + message.version + message.header + message.body)


def fields_of(struct: Receipt | Offer) -> list[Any]:
    return [getattr(struct, name) for name in struct.__struct_fields__]


@settings(max_examples=200, deadline=None)
@given(domains, receipts)
def test_a_receipts_id_is_its_eip712_digest(domain: Domain, receipt: Receipt) -> None:
    expected = wallet_digest(domain, eip712.RECEIPT_TYPE, fields_of(receipt))
    assert eip712.receipt_digest(domain, receipt) == expected


@settings(max_examples=200, deadline=None)
@given(domains, offers)
def test_an_offers_hash_is_its_eip712_struct_hash(domain: Domain, offer: Offer) -> None:
    expected = wallet_digest(domain, eip712.OFFER_TYPE, fields_of(offer))
    assert domain.digest(eip712.offer_hash(offer)) == expected


@settings(max_examples=200, deadline=None)
@given(domains, addresses, addresses, u63, u63, bytes32)
def test_the_short_structs_have_their_eip712_digests(
    domain: Domain, account: Address, node: Address, epoch: int, amount: int, taken: bytes
) -> None:
    for digest, type_text, values in (
        (eip712.consent_digest(domain, account, amount), eip712.CONSENT_TYPE, [account, amount]),
        (
            eip712.acknowledgement_digest(domain, account, epoch, amount),
            eip712.ACKNOWLEDGEMENT_TYPE,
            [account, epoch, amount],
        ),
        (eip712.taken_digest(domain, ReceiptId(taken), epoch), eip712.TAKEN_TYPE, [taken, epoch]),
        (eip712.node_consent_digest(domain, account, node), eip712.NODE_CONSENT_TYPE, [account, node]),
    ):
        assert digest == wallet_digest(domain, type_text, values)


@settings(max_examples=200, deadline=None)
@given(keys, receipts)
def test_a_signature_is_the_one_a_wallet_makes_and_recovers_to_its_key(
    key: SigningKey, receipt: Receipt
) -> None:
    signed = eip712.sign_receipt(LEDGER, receipt, key)
    assert eip712.receipt_signer(LEDGER, signed) == key.address
    digest = eip712.receipt_digest(LEDGER, receipt)
    assert Account._recover_hash(digest, signature=signed.signature).lower() == key.address


@settings(max_examples=300, deadline=None)
@given(receipts, st.data())
def test_a_receipt_with_any_bit_changed_is_not_signed_by_its_node(
    receipt: Receipt, data: st.DataObject
) -> None:
    signed = eip712.sign_receipt(LEDGER, receipt, NODE)
    name = data.draw(st.sampled_from([*Receipt.__struct_fields__, "signature", "domain"]))
    domain = LEDGER
    if name == "signature":
        signed = SignedReceipt(receipt=receipt, signature=flipped(signed.signature, data))
    elif name == "domain":
        domain = Domain(LEDGER.chain_id + 1, LEDGER.contract)
    else:
        value = getattr(receipt, name)
        changed = value ^ 1 if isinstance(value, int) else flipped(value, data)
        given_fields = {field: getattr(receipt, field) for field in Receipt.__struct_fields__}
        signed = SignedReceipt(
            receipt=Receipt(**(given_fields | {name: changed})), signature=signed.signature
        )
    try:
        signer = eip712.receipt_signer(domain, signed)
    except BadSignature:
        return
    assert signer != NODE.address


def flipped(value: bytes | str, data: st.DataObject) -> Any:
    """`value` with one of its bits changed."""
    if isinstance(value, str):
        return "0x" + flipped(bytes.fromhex(value[2:]), data).hex()
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", Receipt.__struct_fields__)
def test_a_field_that_its_type_cannot_hold_is_refused(name: str) -> None:
    wrong: list[Any]
    match getattr(make_receipt(), name):
        case int():
            wrong = [-1, 2**64]
        case bytes():
            wrong = [bytes(31), bytes(33), b""]
        case _:
            wrong = [
                "",
                "0x",
                "0x" + "AB" * 20,
                "0x" + "ab" * 19,
                "0x" + "ab" * 19 + "  ",
                "0x" + "ab" * 20 + "\n",
            ]
    for value in wrong:
        with pytest.raises(BadField):
            eip712.receipt_digest(LEDGER, make_receipt(**{name: value}))


def test_a_domain_binds_chain_and_contract() -> None:
    other = Domain(LEDGER.chain_id, Address("0x" + "60" * 20))
    assert len({domain.separator for domain in (LEDGER, other, Domain(1, LEDGER.contract))}) == 3
    with pytest.raises(BadField):
        _ = Domain(-1, LEDGER.contract).separator
    with pytest.raises(BadField):
        _ = Domain(1, Address("0x12")).separator


def test_a_digest_is_not_mistaken_for_a_signature() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        recover(b"short", bytes(65))

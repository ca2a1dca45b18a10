"""The EIP-712 digests that wallets, nodes and the coordinator sign, packed by hand.

A digest is keccak256(0x1901 ‖ domain separator ‖ keccak256(type hash ‖ fields, 32 bytes each)). The
domain's contract is the Ledger for everything but NodeConsent, whose domain is the Stake contract's. The
type hashes are computed once and each struct is packed in one call, twenty times faster than a general
encoder; the tests hold it to one.
"""

from collections.abc import Sequence
from functools import cached_property
from struct import Struct, error
from typing import Final

import msgspec

from tallystick.protocol.hashing import keccak256
from tallystick.protocol.ids import Address, ReceiptId, address_bytes
from tallystick.protocol.keys import SigningKey, recover
from tallystick.protocol.receipts import Offer, Receipt, SignedReceipt

NAME: Final = "Tallystick"
VERSION: Final = "1"

DOMAIN_TYPE: Final = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
RECEIPT_TYPE: Final = (
    "Receipt(bytes32 jobId,uint32 attempt,bytes32 offerHash,address account,address node,bytes32 modelId,"
    "bytes32 parametersHash,bytes32 jobSeed,bytes32 promptCommitment,bytes32 outputCommitment,"
    "uint32 promptTokens,uint32 outputTokens,uint32 firstPosition,uint8 finish,uint32 textBytes,"
    "bytes32 sketchRoot,bytes32 numericsClass,uint64 inputPrice,uint64 outputPrice,uint16 feeBps,"
    "uint64 startedAt,uint64 finishedAt,uint64 blockNumber,bytes32 nonce)"
)
OFFER_TYPE: Final = (
    "Offer(bytes32 jobId,uint32 attempt,bytes32 promptCommitment,bytes32 parametersHash,bytes32 jobSeed,"
    "uint32 firstPosition,uint64 inputPrice,uint64 outputPrice)"
)
CONSENT_TYPE: Final = "Consent(address account,uint64 spent)"
ACKNOWLEDGEMENT_TYPE: Final = "Acknowledgement(address account,uint64 epoch,uint64 earned)"
TAKEN_TYPE: Final = "Taken(bytes32 receiptHash,uint64 epoch)"
NODE_CONSENT_TYPE: Final = "NodeConsent(address operator,address node)"

_PACKED: Final = {
    "address": "12x20s",
    "bytes32": "32s",
    "uint8": "31xB",
    "uint16": "30xH",
    "uint32": "28xI",
    "uint64": "24xQ",
}


class BadField(ValueError):
    """A field that its EIP-712 type cannot hold: a wrong length, or a number out of range."""


class _Type:
    """How one struct type is packed: its hash, and one big-endian layout for all of its fields."""

    def __init__(self, text: str) -> None:
        self._name, _, fields = text.rstrip(")").partition("(")
        kinds = [field.split(" ")[0] for field in fields.split(",")]
        self._hash = keccak256(text.encode())
        self._layout = Struct(">32s" + "".join(_PACKED[kind] for kind in kinds))
        # Struct cuts and pads byte strings in silence, so their lengths are checked here.
        self._hashes = [index for index, kind in enumerate(kinds) if kind == "bytes32"]

    def hash(self, *fields: bytes | int) -> bytes:
        """Return hashStruct of the fields in their order. Raises BadField."""
        for index in self._hashes:
            value = fields[index]
            if not isinstance(value, bytes) or len(value) != 32:
                raise BadField(f"field {index} of {self._name} is not 32 bytes: {value!r}")
        return self.hash_exact(*fields)

    def hash_exact(self, *fields: bytes | int) -> bytes:
        """Return hashStruct of fields whose lengths are known to be right. Raises BadField."""
        try:
            return keccak256(self._layout.pack(self._hash, *fields))
        except error as reason:
            raise BadField(f"a field of {self._name} is out of range: {reason}") from reason


_RECEIPT: Final = _Type(RECEIPT_TYPE)
_OFFER: Final = _Type(OFFER_TYPE)
_CONSENT: Final = _Type(CONSENT_TYPE)
_ACKNOWLEDGEMENT: Final = _Type(ACKNOWLEDGEMENT_TYPE)
_TAKEN: Final = _Type(TAKEN_TYPE)
_NODE_CONSENT: Final = _Type(NODE_CONSENT_TYPE)


class Domain(msgspec.Struct, frozen=True, dict=True):
    """Which chain and contract a signature is for."""

    chain_id: int
    contract: Address

    @cached_property
    def separator(self) -> bytes:
        """The domain separator, as the contract's `DOMAIN_SEPARATOR()` returns it. Raises BadField."""
        if not 0 <= self.chain_id < 2**256:
            raise BadField(f"a chain id of {self.chain_id} is not a uint256")
        return keccak256(
            keccak256(DOMAIN_TYPE.encode())
            + keccak256(NAME.encode())
            + keccak256(VERSION.encode())
            + self.chain_id.to_bytes(32, "big")
            + bytes(12)
            + _raw(self.contract)
        )

    def digest(self, struct_hash: bytes) -> bytes:
        """Return what is signed for a struct of this domain."""
        return keccak256(b"\x19\x01" + self.separator + struct_hash)


def offer_hash(offer: Offer) -> bytes:
    """Return hashStruct of `offer`; the receipt that carries it adds the domain. Raises BadField."""
    return _OFFER.hash(
        offer.job_id,
        offer.attempt,
        offer.prompt_commitment,
        offer.parameters_hash,
        offer.job_seed,
        offer.first_position,
        offer.input_price,
        offer.output_price,
    )


def receipt_hash(receipt: Receipt) -> bytes:
    """Return hashStruct of `receipt`, without a domain. Raises BadField."""
    return _RECEIPT.hash(
        receipt.job_id,
        receipt.attempt,
        receipt.offer_hash,
        _raw(receipt.account),
        _raw(receipt.node),
        receipt.model_id,
        receipt.parameters_hash,
        receipt.job_seed,
        receipt.prompt_commitment,
        receipt.output_commitment,
        receipt.prompt_tokens,
        receipt.output_tokens,
        receipt.first_position,
        receipt.finish,
        receipt.text_bytes,
        receipt.sketch_root,
        receipt.numerics_class,
        receipt.input_price,
        receipt.output_price,
        receipt.fee_bps,
        receipt.started_at,
        receipt.finished_at,
        receipt.block_number,
        receipt.nonce,
    )


def receipt_digest(domain: Domain, receipt: Receipt) -> ReceiptId:
    """Return the receipt's id: what its node signs. Raises BadField."""
    return ReceiptId(domain.digest(receipt_hash(receipt)))


def receipt_digest_of(domain: Domain, fields: Sequence[bytes | int]) -> ReceiptId:
    """Return the id of the receipt with these fields, in the order of the struct, addresses as 20 bytes.

    Twice as fast as `receipt_digest`, for those who read many; lengths are the caller's to know.
    """
    return ReceiptId(domain.digest(_RECEIPT.hash_exact(*fields)))


def consent_digest(domain: Domain, account: Address, spent: int) -> bytes:
    """Return what a consumer signs under having spent `spent` nano-dollars so far. Raises BadField."""
    return domain.digest(_CONSENT.hash(_raw(account), spent))


def acknowledgement_digest(domain: Domain, account: Address, epoch: int, earned: int) -> bytes:
    """Return what the coordinator signs under an operator's earnings so far. Raises BadField."""
    return domain.digest(_ACKNOWLEDGEMENT.hash(_raw(account), epoch, earned))


def taken_digest(domain: Domain, receipt_id: ReceiptId, epoch: int) -> bytes:
    """Return what the coordinator signs when it takes a receipt, to settle it by `epoch`. Raises BadField."""
    return domain.digest(_TAKEN.hash(receipt_id, epoch))


def node_consent_digest(stake: Domain, operator: Address, node: Address) -> bytes:
    """Return what a node's key signs to belong to `operator`; `stake` is the Stake contract's domain."""
    return stake.digest(_NODE_CONSENT.hash(_raw(operator), _raw(node)))


def sign_receipt(domain: Domain, receipt: Receipt, key: SigningKey) -> SignedReceipt:
    """Return `receipt` with the signature of `key`, which should be its node's. Raises BadField."""
    return SignedReceipt(receipt=receipt, signature=key.sign_digest(receipt_digest(domain, receipt)))


def receipt_signer(domain: Domain, signed: SignedReceipt) -> Address:
    """Return who signed; the caller compares it with the receipt's node. Raises BadSignature or BadField."""
    return recover(receipt_digest(domain, signed.receipt), signed.signature)


def _raw(address: Address) -> bytes:
    try:
        return address_bytes(address)
    except ValueError as reason:
        raise BadField(str(reason)) from reason

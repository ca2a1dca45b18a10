"""The Ledger's rules in memory: what the contract does with rows, deposits, rights and cheques."""

from dataclasses import dataclass, field, replace
from typing import Any

from marketplace.domain.epochs import NOTHING, EpochClock
from marketplace.domain.ports.chain import Batch, ChainAccount, Charge, Closing, Exit, Payout
from tallystick.audit_secrets import audit_secret_hash
from tallystick.evm import Reverted
from tallystick.protocol.eip712 import Domain, consent_digest
from tallystick.protocol.ids import Address
from tallystick.protocol.keys import BadSignature, recover
from tallystick.protocol.money import SCALE, NanoUsd


@dataclass
class MemoryLedger:
    """The contract's storage; every function either does all it says or raises Reverted and does nothing."""

    domain: Domain
    clock: EpochClock
    coordinator: Address
    audit_secret_hash: bytes
    thaw: int = 400
    accounts: dict[Address, ChainAccount] = field(default_factory=dict)
    exits: dict[Address, Exit] = field(default_factory=dict)
    consent_keys: set[tuple[Address, Address]] = field(default_factory=set)
    roots: dict[int, bytes] = field(default_factory=dict)
    next_epoch: int = 0
    chunks: int = 0
    pool: int = 0
    bond: int = 0

    def copy(self) -> "MemoryLedger":
        """Return the same state, to be changed apart; what is in its tables never changes."""
        return replace(
            self,
            accounts=dict(self.accounts),
            exits=dict(self.exits),
            consent_keys=set(self.consent_keys),
            roots=dict(self.roots),
        )

    def account(self, address: Address) -> ChainAccount:
        """Return an account; one that was never used is all zeros."""
        return self.accounts.get(address, NOTHING)

    def deposit(self, address: Address, amount: int, authorized: int) -> None:
        """Credit `amount` and raise the right to `authorized` if that is more."""
        before = self.account(address)
        self._set(address, balance=before.balance + amount, authorized=max(before.authorized, authorized))

    def authorize(self, address: Address, authorized: int) -> None:
        """Raise the right."""
        recorded = self.account(address).authorized
        if authorized < recorded:
            raise Reverted("Ledger_RightGoesBack", {"given": authorized, "recorded": recorded})
        self._set(address, authorized=authorized)

    def withdraw(self, address: Address, now: int) -> int:
        """Return what leaves: the smaller of the request and the balance, in whole units, in nano-dollars."""
        request, before = self.exits.get(address), self.account(address)
        if request is None:
            raise Reverted("Ledger_NothingRequested", {"account": address})
        if now < request.payable_at:
            raise Reverted("Ledger_StillThawing", {"account": address, "payableAt": request.payable_at})
        amount = min(request.amount, before.balance) // SCALE * SCALE
        left = before.balance - amount
        del self.exits[address]
        self._set(address, balance=left, authorized=before.spent if left < SCALE else before.authorized)
        return amount

    def settle(self, batch: Batch, sender: Address, now: int) -> None:
        """Apply a batch, and close the epoch if it brings the closing."""
        kept = self.copy()
        try:
            self._check(batch, sender, now)
            for row, charge in enumerate(batch.charges):
                self._charge(row, charge)
            for row, payout in enumerate(batch.payouts):
                self._pay(row, payout)
            self.chunks += 1
            if batch.closing is not None:
                self._close(batch.epoch, batch.closing)
        except Reverted:
            vars(self).update(vars(kept))
            raise

    def cash(self, address: Address, earned: int) -> int:
        """Return what the bond pays of a cheque that says `earned`; who signed it is not looked at."""
        before = self.account(address)
        paid = min(earned - before.earned, self.bond)
        if paid <= 0:
            values = {"account": address, "earned": earned, "recorded": before.earned}
            raise Reverted("Ledger_NothingToCash", values)
        self.bond -= paid
        self._set(address, earned=before.earned + paid)
        return paid

    def _check(self, batch: Batch, sender: Address, now: int) -> None:
        if sender != self.coordinator:
            raise Reverted("Ledger_NotCoordinator", {"caller": sender, "coordinator": self.coordinator})
        end = self.clock.end_of(batch.epoch)
        if now < end:
            raise Reverted("Ledger_EpochNotOver", {"epoch": batch.epoch, "end": end})
        if batch.epoch < self.next_epoch:
            raise Reverted("Ledger_EpochClosed", {"epoch": batch.epoch, "next": self.next_epoch})
        if self.chunks and batch.epoch != self.next_epoch:
            raise Reverted("Ledger_EpochOpen", {"epoch": batch.epoch, "open": self.next_epoch})
        if batch.chunk != self.chunks:
            values = {"epoch": batch.epoch, "given": batch.chunk, "expected": self.chunks}
            raise Reverted("Ledger_WrongChunk", values)
        self.next_epoch = batch.epoch

    def _charge(self, row: int, charge: Charge) -> None:
        address, before = charge.account, self.account(charge.account)
        where: dict[str, Any] = {"row": row, "account": address}
        if charge.consent is not None:
            self._check_consent(row, charge)
            self._set(address, authorized=max(before.authorized, charge.consent.spent))
            before = self.account(address)
        if charge.spent < before.spent:
            values = where | {"given": charge.spent, "recorded": before.spent}
            raise Reverted("Ledger_ChargeGoesBack", values)
        if charge.spent > before.authorized:
            values = where | {"spent": charge.spent, "authorized": before.authorized}
            raise Reverted("Ledger_ChargeBeyondRight", values)
        amount = charge.spent - before.spent
        if amount > before.balance:
            values = where | {"amount": amount, "balance": before.balance}
            raise Reverted("Ledger_ChargeBeyondBalance", values)
        self._set(address, spent=charge.spent, balance=before.balance - amount)
        self.pool += amount

    def _check_consent(self, row: int, charge: Charge) -> None:
        assert charge.consent is not None
        try:
            digest = consent_digest(self.domain, charge.account, charge.consent.spent)
            signer = recover(digest, charge.consent.signature)
        except BadSignature:
            signer = Address("0x" + "00" * 20)
        if signer != charge.account and (charge.account, signer) not in self.consent_keys:
            values = {"row": row, "account": charge.account, "spent": charge.consent.spent, "signer": signer}
            raise Reverted("Ledger_ConsentForged", values)

    def _pay(self, row: int, payout: Payout) -> None:
        before = self.account(payout.account)
        where: dict[str, Any] = {"row": row, "account": payout.account}
        if payout.earned < before.earned:
            values = where | {"given": payout.earned, "recorded": before.earned}
            raise Reverted("Ledger_PayoutGoesBack", values)
        amount = payout.earned - before.earned
        if amount > self.pool:
            raise Reverted("Ledger_PoolShort", where | {"amount": amount, "pool": self.pool})
        self.pool -= amount
        self._set(payout.account, earned=payout.earned)

    def _close(self, epoch: int, closing: Closing) -> None:
        if self.pool:
            raise Reverted("Ledger_PoolLeft", {"epoch": epoch, "pool": self.pool})
        if audit_secret_hash(closing.audit_secret) != self.audit_secret_hash:
            values = {"given": closing.audit_secret, "committed": self.audit_secret_hash}
            raise Reverted("Ledger_WrongAuditSecret", values)
        if closing.next_audit_secret_hash == bytes(32):
            raise Reverted("Ledger_NoNextAuditSecret", {})
        self.audit_secret_hash = closing.next_audit_secret_hash
        self.roots[epoch] = closing.receipts_root
        self.next_epoch, self.chunks = epoch + 1, 0

    def _set(self, address: Address, **changes: int) -> None:
        amounts = {name: NanoUsd(amount) for name, amount in changes.items()}
        self.accounts[address] = replace(self.account(address), **amounts)

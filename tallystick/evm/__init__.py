"""How everybody here talks to an EVM chain: contracts by artifact, readable reverts, and one sender per key.

    connect(rpc_url) ──▶ Connection ──▶ Contract(address, artifact)   reads
                              │                  │ prepare(…) ──▶ Call
                              └──▶ Wallet(key) ◀─┘                simulates, signs, sends, waits

Addresses are lower-case strings as everywhere; amounts are plain integers in the contract's own unit.
"""

from tallystick.evm.abi import Artifact, Log, load_artifact
from tallystick.evm.connection import Block, Call, Connection, Contract, Mined, connect, together
from tallystick.evm.errors import EvmError, NodeUnreachable, Reverted, TransactionStuck
from tallystick.evm.transactions import Fees, SignedTransaction, sign_transaction
from tallystick.evm.wallet import Cost, Wallet

__all__ = [
    "Artifact",
    "Block",
    "Call",
    "Connection",
    "Contract",
    "Cost",
    "EvmError",
    "Fees",
    "Log",
    "Mined",
    "NodeUnreachable",
    "Reverted",
    "SignedTransaction",
    "TransactionStuck",
    "Wallet",
    "connect",
    "load_artifact",
    "sign_transaction",
    "together",
]

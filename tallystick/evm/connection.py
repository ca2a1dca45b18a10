"""A connection to a chain's node: reads, simulations, broadcasts; its errors are translated here, once.

web3 takes most of a second to import, and many commands that could ask a chain do not: it is imported where
it is used.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from aiohttp import ClientError
from eth_utils.address import to_checksum_address

from tallystick.evm.abi import Artifact, Log, load_artifact, read_revert
from tallystick.evm.errors import EvmError, NodeUnreachable, Reverted
from tallystick.evm.transactions import Fees
from tallystick.protocol.ids import Address, to_address, to_hex

if TYPE_CHECKING:
    from web3 import AsyncWeb3
    from web3.exceptions import ContractLogicError, Web3RPCError
    from web3.types import RPCEndpoint

T = TypeVar("T")
BlockId = int | str
"""A height, or `latest`, `pending`."""

_TIMEOUT_S: Final = 30
READS_A_REQUEST: Final = 100
_LOGS_AT_ONCE: Final = 100
_ETH_CALL: Final = cast("RPCEndpoint", "eth_call")


@dataclass(frozen=True, slots=True)
class Block:
    """A block's place and time (seconds since 1970)."""

    number: int
    hash: bytes
    timestamp: int
    base_fee: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a contract that is ready to be simulated or sent; `value` is in wei, `to` None deploys."""

    to: Address | None
    data: bytes
    value: int = 0


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that is in a block, and whether it succeeded there."""

    transaction: bytes
    block_number: int
    block_hash: bytes
    gas_used: int
    succeeded: bool
    contract: Address | None
    """The contract that it deployed, if it did."""


class Connection:
    """One chain's node. Raises Reverted for a contract's refusal and NodeUnreachable for everything else.

    What is read often is asked for as plain JSON: web3 takes ten times as long over an answer.
    """

    def __init__(self, web3: "AsyncWeb3[Any]", chain_id: int) -> None:
        self.web3 = web3
        self.chain_id = chain_id

    async def close(self) -> None:
        """Close the connections that are kept open."""
        await self.web3.provider.disconnect()

    async def block(self, which: BlockId = "latest") -> Block | None:
        """Return a block, or None if there is none at that height (yet, or any more)."""
        found = await self.rpc("eth_getBlockByNumber", _tag(which), False)
        if found is None:
            return None
        return Block(
            number=int(found["number"], 16),
            hash=bytes.fromhex(found["hash"][2:]),
            timestamp=int(found["timestamp"], 16),
            base_fee=int(found.get("baseFeePerGas") or "0x0", 16),
        )

    async def call(self, call: Call, *, sender: Address | None = None, at: BlockId = "latest") -> bytes:
        """Return what a call gives, changing nothing. Raises Reverted."""
        asked = {"to": call.to, "from": sender, "value": hex(call.value), "data": to_hex(call.data)}
        given = {name: value for name, value in asked.items() if value is not None}
        answer = await _translated(self.web3.provider.make_request(_ETH_CALL, [given, _tag(at)]))
        if "result" in answer:
            return bytes.fromhex(str(answer["result"])[2:])
        # Each kind of node words a refusal in its own way, and web3 knows them.
        return bytes(await _translated(self.web3.eth.call(_request(call, sender), at)))  # type: ignore[arg-type]

    async def call_all(self, calls: Sequence[Call], *, at: BlockId = "latest") -> list[bytes]:
        """Return what each of `calls` gives, all asked in one request.

        Raises NodeUnreachable also if one of them reverts, or if the node takes no such request.
        """
        asked = [(_ETH_CALL, [{"to": call.to, "data": to_hex(call.data)}, _tag(at)]) for call in calls]
        answers = await _translated(self.web3.provider.make_batch_request(asked))
        if not isinstance(answers, list) or len(answers) != len(calls):
            raise NodeUnreachable(f"the chain's node takes no {len(calls)} calls at once: {answers}")
        failed = next((one["error"] for one in answers if "result" not in one), None)
        if failed is not None:
            raise NodeUnreachable(f"one of {len(calls)} calls failed: {failed}")
        return [bytes.fromhex(one["result"][2:]) for one in answers]

    async def estimate_gas(self, call: Call, sender: Address) -> int:
        """Return the gas that a call takes now. Raises Reverted."""
        return await _translated(self.web3.eth.estimate_gas(_request(call, sender)))

    async def fees(self) -> Fees:
        """Return fees with which a transaction gets in although the base fee doubles."""
        latest = await self.block()
        priority = await _translated(self.web3.eth.max_priority_fee)
        return Fees(2 * (latest.base_fee if latest else 0) + priority, priority)

    async def nonce(self, sender: Address, at: BlockId = "pending") -> int:
        """Return how many transactions of `sender` are in blocks, or with `pending` also those that wait."""
        return await _translated(self.web3.eth.get_transaction_count(_sum(sender), at))  # type: ignore[arg-type]

    async def gas_money(self, address: Address) -> int:
        """Return what the address has to pay gas with, in wei."""
        return await _translated(self.web3.eth.get_balance(_sum(address)))

    async def has_code(self, address: Address) -> bool:
        """Return whether there is a contract at the address."""
        return bool(await _translated(self.web3.eth.get_code(_sum(address))))

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node; one that it has already is no error.

        Raises Reverted, NodeUnreachable.
        """
        try:
            await _translated(self.web3.eth.send_raw_transaction(raw))
        except NodeUnreachable as error:
            if not any(known in error.text.lower() for known in ("already known", "already imported")):
                raise

    async def mined(self, transaction: bytes) -> Mined | None:
        """Return where a transaction was mined, or None if it is not in a block."""
        from web3.exceptions import TransactionNotFound

        try:
            found = await _translated(self.web3.eth.get_transaction_receipt(transaction))  # type: ignore[arg-type]
        except TransactionNotFound:
            return None
        address = found.get("contractAddress")
        return Mined(
            bytes(found["transactionHash"]),
            found["blockNumber"],
            bytes(found["blockHash"]),
            found["gasUsed"],
            found["status"] == 1,
            to_address(address) if address else None,
        )

    async def logs(
        self, contracts: Mapping[Address, Artifact], first: int, last: int, topics: Sequence[bytes] = ()
    ) -> list[Log]:
        """Return the contracts' events in the blocks `first` … `last`, in order; `topics` narrows them."""
        asked: dict[str, Any] = {"address": list(contracts)}
        asked |= {"fromBlock": hex(first), "toBlock": hex(last)}
        if topics:
            asked["topics"] = [[to_hex(one) for one in topics]]
        found = await self.rpc("eth_getLogs", asked)
        logs: list[Log] = []
        for at in range(0, len(found), _LOGS_AT_ONCE):
            read = (_read_log(contracts, one) for one in found[at : at + _LOGS_AT_ONCE])
            logs += (one for one in read if one)
            await asyncio.sleep(0)
        return sorted(logs, key=lambda one: (one.block_number, one.index))

    async def rpc(self, method: str, *parameters: Any) -> Any:
        """Return the result of any JSON-RPC method (`anvil_mine`, say). Raises NodeUnreachable."""
        answer = await _translated(self.web3.provider.make_request(method, parameters))
        if "error" in answer:
            raise NodeUnreachable(f"{method}: {answer['error']}")
        return answer["result"]


class Contract:
    """A contract at an address, as its artifact describes it."""

    def __init__(self, connection: Connection, address: Address, artifact: Artifact | str) -> None:
        self.address = address
        self.artifact = load_artifact(artifact) if isinstance(artifact, str) else artifact
        self._connection = connection

    def prepare(self, function: str, *arguments: Any) -> Call:
        """Return a call that can be simulated or sent."""
        return Call(self.address, self.artifact.encode(function, arguments))

    async def read(self, function: str, *arguments: Any, at: BlockId = "latest") -> Any:
        """Return what a view gives: one value, or a tuple of several. Raises Reverted, NodeUnreachable."""
        answer = await self._connection.call(self.prepare(function, *arguments), at=at)
        if not answer:
            raise NodeUnreachable(f"there is no {self.artifact.name} at {self.address} on this chain")
        return self.artifact.function(function).unpack_outputs(answer)

    async def read_all(self, function: str, each: Sequence[Any], *, at: BlockId = "latest") -> list[Any]:
        """Return what a view gives for each of some arguments, in as few requests as the node takes.

        Raises Reverted, NodeUnreachable.
        """
        given: list[Any] = []
        for first in range(0, len(each), READS_A_REQUEST):
            given += await self._read_some(function, each[first : first + READS_A_REQUEST], at)
        return given

    async def _read_some(self, function: str, each: Sequence[Any], at: BlockId) -> list[Any]:
        try:
            answers = await self._connection.call_all([self.prepare(function, one) for one in each], at=at)
        except EvmError:
            answers = []
        if not all(answers) or len(answers) != len(each):
            # Some nodes take fewer calls at once, or none; one that is down says so here.
            return await together([self.read(function, one, at=at) for one in each])
        unpack = self.artifact.function(function).unpack_outputs
        return [unpack(answer) for answer in answers]


async def connect(rpc_url: str) -> Connection:
    """Return a connection to the node at `rpc_url`. Raises NodeUnreachable."""
    from web3 import AsyncWeb3

    from tallystick.evm.provider import KeptProvider

    provider = KeptProvider(rpc_url, _TIMEOUT_S)
    web3: AsyncWeb3[Any] = AsyncWeb3(provider)
    try:
        chain_id = await _translated(web3.eth.chain_id)
    except BaseException as error:
        # Also if this was cancelled: nobody else could close what it opened.
        await provider.disconnect()
        if isinstance(error, NodeUnreachable):
            raise NodeUnreachable(f"no chain answers at {rpc_url}: {error.text}") from error
        raise
    return Connection(web3, chain_id)


async def together(reads: Sequence[Awaitable[Any]]) -> list[Any]:
    """Return what all of `reads` give, made at once; the first error is raised after the last has ended.

    One that is left running would open the connection again that its caller closes after the error.
    """
    answers = await asyncio.gather(*reads, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


@asynccontextmanager
async def connected(rpc_url: str) -> AsyncIterator[Connection]:
    """Give a connection that is closed at the end. Raises NodeUnreachable."""
    connection = await connect(rpc_url)
    try:
        yield connection
    finally:
        await connection.close()


async def _translated(answer: Awaitable[T]) -> T:
    """Return the answer; Reverted and NodeUnreachable stand for what web3 and aiohttp raise."""
    from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError

    try:
        return await answer
    except TransactionNotFound:
        raise
    except ContractLogicError as error:
        raise _revert_of(error) from error
    except Web3RPCError as error:
        raise NodeUnreachable(_message_of(error)) from error
    except (Web3Exception, ClientError, TimeoutError, OSError) as error:
        said = str(error) or type(error).__name__
        raise NodeUnreachable(f"the chain's node does not answer: {said}") from error


def _revert_of(error: "ContractLogicError") -> Reverted:
    data = error.data.get("data", "") if isinstance(error.data, dict) else error.data
    text = data if isinstance(data, str) and data.startswith("0x") else "0x"
    return read_revert(bytes.fromhex(text[2:]), error.message or "execution reverted")


def _message_of(error: "Web3RPCError") -> str:
    response = error.rpc_response
    inner = response.get("error") if response else None
    return str(inner.get("message")) if isinstance(inner, dict) else str(error)


def _tag(block: BlockId) -> str:
    return hex(block) if isinstance(block, int) else block


def _request(call: Call, sender: Address | None) -> Any:
    fields: dict[str, Any] = {"data": to_hex(call.data), "value": call.value}
    if call.to is not None:
        fields["to"] = _sum(call.to)
    if sender is not None:
        fields["from"] = _sum(sender)
    return fields


def _read_log(contracts: Mapping[Address, Artifact], found: Any) -> Log | None:
    address = to_address(found["address"])
    topics = [bytes.fromhex(one[2:]) for one in found["topics"]]
    read = contracts[address].decode_log(topics, bytes.fromhex(found["data"][2:]))
    if read is None:
        return None
    return Log(
        contract=address,
        event=read[0],
        fields=read[1],
        block_number=int(found["blockNumber"], 16),
        block_hash=bytes.fromhex(found["blockHash"][2:]),
        transaction=bytes.fromhex(found["transactionHash"][2:]),
        index=int(found["logIndex"], 16),
    )


def _sum(address: Address) -> Any:
    return to_checksum_address(address)

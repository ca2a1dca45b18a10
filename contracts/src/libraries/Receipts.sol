// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

/// @title Receipts
/// @notice What a node signs when a job ends, what it had been offered, and the proof that a receipt is under an epoch's root.
/// @dev The tree: a leaf is `keccak256(0x00 || id)`, a node `keccak256(0x01 || left || right)`, the root
/// `keccak256(0x02 || uint64 count || top)`. A level with an odd number of nodes (more than one) is padded on the right with
/// `EMPTY`; the top of no receipts is `EMPTY`. The three prefixes keep leaves, nodes and roots from standing in for each other.
library Receipts {
    /// @notice A receipt; its id is its EIP-712 digest in the domain of the Ledger.
    /// @dev Prices are nano-dollars per token, times milliseconds since 1970. `promptTokens` are those that this part bills;
    /// `finish` is 0 for eos, 1 stop string, 2 length, 3 cancelled, 4 handed over; `textBytes` counts delivered UTF-8 bytes.
    struct Receipt {
        bytes32 jobId;
        uint32 attempt;
        bytes32 offerHash;
        address account;
        address node;
        bytes32 modelId;
        bytes32 parametersHash;
        bytes32 jobSeed;
        bytes32 promptCommitment;
        bytes32 outputCommitment;
        uint32 promptTokens;
        uint32 outputTokens;
        uint32 firstPosition;
        uint8 finish;
        uint32 textBytes;
        bytes32 sketchRoot;
        bytes32 numericsClass;
        uint64 inputPrice;
        uint64 outputPrice;
        uint16 feeBps;
        uint64 startedAt;
        uint64 finishedAt;
        uint64 blockNumber;
        bytes32 nonce;
    }

    /// @notice What a node was offered; two receipts under one offer must not differ in their results.
    struct Offer {
        bytes32 jobId;
        uint32 attempt;
        bytes32 promptCommitment;
        bytes32 parametersHash;
        bytes32 jobSeed;
        uint32 firstPosition;
        uint64 inputPrice;
        uint64 outputPrice;
    }

    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 jobId,uint32 attempt,bytes32 offerHash,address account,address node,bytes32 modelId,"
        "bytes32 parametersHash,bytes32 jobSeed,bytes32 promptCommitment,bytes32 outputCommitment,uint32 promptTokens,"
        "uint32 outputTokens,uint32 firstPosition,uint8 finish,uint32 textBytes,bytes32 sketchRoot,bytes32 numericsClass,"
        "uint64 inputPrice,uint64 outputPrice,uint16 feeBps,uint64 startedAt,uint64 finishedAt,uint64 blockNumber,"
        "bytes32 nonce)"
    );

    bytes32 internal constant OFFER_TYPEHASH = keccak256(
        "Offer(bytes32 jobId,uint32 attempt,bytes32 promptCommitment,bytes32 parametersHash,bytes32 jobSeed,"
        "uint32 firstPosition,uint64 inputPrice,uint64 outputPrice)"
    );

    /// @notice Fills the place of a missing right neighbour, and stands for the top of no receipts.
    bytes32 internal constant EMPTY = keccak256("tallystick/receipts/empty/v1");

    /// @notice Returns the id of a receipt: its EIP-712 digest in the Ledger's domain, which is also what the node signs.
    function id(Receipt memory receipt, bytes32 domainSeparator) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator, keccak256(abi.encode(RECEIPT_TYPEHASH, receipt)));
    }

    /// @notice Returns the `offerHash` of an offer: its EIP-712 struct hash, without a domain.
    function hash(Offer memory offer) internal pure returns (bytes32) {
        return keccak256(abi.encode(OFFER_TYPEHASH, offer));
    }

    /// @notice Returns whether the receipt stands at `index` in the tree of `count` receipts that has this root.
    /// @param siblings The neighbours on the way up, lowest first; exactly as many as the tree has levels above its leaves.
    function verify(bytes32 root, uint64 count, bytes32 receiptId, uint64 index, bytes32[] memory siblings)
        internal
        pure
        returns (bool)
    {
        if (index >= count || siblings.length != depth(count)) return false;
        bytes32 top = leaf(receiptId);
        uint64 place = index;
        for (uint256 level = 0; level < siblings.length; ++level) {
            top = place % 2 == 0 ? node(top, siblings[level]) : node(siblings[level], top);
            place /= 2;
        }
        return root == seal(count, top);
    }

    /// @notice Returns how many levels stand above the leaves of a tree of `count` receipts.
    function depth(uint64 count) internal pure returns (uint256 levels) {
        if (count < 2) return 0;
        for (uint64 last = count - 1; last > 0; last /= 2) {
            ++levels;
        }
    }

    /// @notice Returns the leaf of a receipt.
    function leaf(bytes32 receiptId) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x00), receiptId));
    }

    /// @notice Returns the node above two nodes or leaves.
    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x01), left, right));
    }

    /// @notice Returns the root: the top of the tree bound to the number of receipts under it.
    function seal(uint64 count, bytes32 top) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(bytes1(0x02), count, top));
    }
}

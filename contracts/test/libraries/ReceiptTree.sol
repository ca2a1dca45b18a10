// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Receipts} from "../../src/libraries/Receipts.sol";

/// @notice Builds receipt trees and their proofs, level by level, for the tests of `Receipts.verify`.
library ReceiptTree {
    function root(bytes32[] memory ids) internal pure returns (bytes32) {
        bytes32[] memory level = leaves(ids);
        while (level.length > 1) level = above(level);
        return Receipts.seal(uint64(ids.length), ids.length == 0 ? Receipts.EMPTY : level[0]);
    }

    function proof(bytes32[] memory ids, uint256 index) internal pure returns (bytes32[] memory siblings) {
        bytes32[] memory level = leaves(ids);
        bytes32[] memory path = new bytes32[](64);
        uint256 depth = 0;
        for (; level.length > 1; level = above(level)) {
            uint256 neighbour = index ^ 1;
            path[depth++] = neighbour < level.length ? level[neighbour] : Receipts.EMPTY;
            index /= 2;
        }
        siblings = new bytes32[](depth);
        for (uint256 i = 0; i < depth; ++i) {
            siblings[i] = path[i];
        }
    }

    function leaves(bytes32[] memory ids) private pure returns (bytes32[] memory level) {
        level = new bytes32[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            level[i] = Receipts.leaf(ids[i]);
        }
    }

    function above(bytes32[] memory level) private pure returns (bytes32[] memory next) {
        next = new bytes32[]((level.length + 1) / 2);
        for (uint256 i = 0; i < next.length; ++i) {
            bytes32 right = 2 * i + 1 < level.length ? level[2 * i + 1] : Receipts.EMPTY;
            next[i] = Receipts.node(level[2 * i], right);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {Receipts} from "../../src/libraries/Receipts.sol";
import {ReceiptTree} from "./ReceiptTree.sol";

contract Receipts_Test is Test {
    function testFuzz_EveryReceiptOfATreeIsProved(uint8 count, bytes32 seed) external pure {
        count = uint8(bound(count, 0, 70));
        bytes32[] memory ids = receipts(count, seed);
        bytes32 root = ReceiptTree.root(ids);
        for (uint64 i = 0; i < count; ++i) {
            assertTrue(Receipts.verify(root, count, ids[i], i, ReceiptTree.proof(ids, i)));
        }
    }

    function testFuzz_AChangedBitProvesNothing(uint8 count, bytes32 seed, uint64 index, uint8 bit, uint256 which)
        external
        pure
    {
        count = uint8(bound(count, 2, type(uint8).max));
        index = uint64(bound(index, 0, count - 1));
        bytes32[] memory ids = receipts(count, seed);
        bytes32 root = ReceiptTree.root(ids);
        bytes32[] memory siblings = ReceiptTree.proof(ids, index);
        bytes32 flip = bytes32(uint256(1) << bit);

        assertFalse(Receipts.verify(root ^ flip, count, ids[index], index, siblings), "root");
        assertFalse(Receipts.verify(root, count, ids[index] ^ flip, index, siblings), "receipt");
        assertFalse(Receipts.verify(root, count, ids[index], index ^ uint64(1 << (bit % 64)), siblings), "index");
        assertFalse(Receipts.verify(root, count ^ uint64(1 << (bit % 64)), ids[index], index, siblings), "count");
        siblings[which % siblings.length] ^= flip;
        assertFalse(Receipts.verify(root, count, ids[index], index, siblings), "sibling");
    }

    function testFuzz_AnotherReceiptsProofProvesNothing(uint8 count, bytes32 seed, uint64 index, uint64 other)
        external
        pure
    {
        count = uint8(bound(count, 2, type(uint8).max));
        index = uint64(bound(index, 0, count - 1));
        other = uint64(bound(other, 0, count - 1));
        vm.assume(index != other);
        bytes32[] memory ids = receipts(count, seed);
        bytes32[] memory siblings = ReceiptTree.proof(ids, other);
        assertFalse(Receipts.verify(ReceiptTree.root(ids), count, ids[index], index, siblings));
        assertFalse(Receipts.verify(ReceiptTree.root(ids), count, ids[index], other, siblings));
    }

    function testFuzz_AProofOfAnotherLengthProvesNothing(uint8 count, bytes32 seed, uint64 index) external pure {
        count = uint8(bound(count, 1, type(uint8).max));
        index = uint64(bound(index, 0, count - 1));
        bytes32[] memory ids = receipts(count, seed);
        bytes32 root = ReceiptTree.root(ids);
        bytes32[] memory siblings = ReceiptTree.proof(ids, index);
        bytes32[] memory longer = new bytes32[](siblings.length + 1);
        for (uint256 i = 0; i < siblings.length; ++i) {
            longer[i] = siblings[i];
        }
        assertFalse(Receipts.verify(root, count, ids[index], index, longer));
        if (siblings.length > 0) {
            bytes32[] memory shorter = new bytes32[](siblings.length - 1);
            for (uint256 i = 0; i < shorter.length; ++i) {
                shorter[i] = siblings[i];
            }
            assertFalse(Receipts.verify(root, count, ids[index], index, shorter));
        }
    }

    /// @dev The place that pads an odd level must not pass for a receipt, nor an inner node for a leaf.
    function test_PaddingAndInnerNodesAreNoReceipts() external pure {
        bytes32[] memory ids = receipts(3, "seed");
        bytes32 root = ReceiptTree.root(ids);
        bytes32[] memory siblings = new bytes32[](2);
        (siblings[0], siblings[1]) =
        (Receipts.leaf(ids[2]), Receipts.node(Receipts.leaf(ids[0]), Receipts.leaf(ids[1])));
        assertFalse(Receipts.verify(root, 3, Receipts.EMPTY, 3, siblings));
        bytes32[] memory one = new bytes32[](1);
        one[0] = Receipts.node(Receipts.leaf(ids[2]), Receipts.EMPTY);
        assertFalse(Receipts.verify(root, 2, Receipts.node(Receipts.leaf(ids[0]), Receipts.leaf(ids[1])), 0, one));
    }

    function testFuzz_NothingIsUnderARootOfNothing(bytes32 id, uint64 index) external pure {
        bytes32 root = ReceiptTree.root(new bytes32[](0));
        assertEq(root, Receipts.seal(0, Receipts.EMPTY));
        assertFalse(Receipts.verify(root, 0, id, index, new bytes32[](0)));
    }

    function testFuzz_TheDepthIsTheSmallestThatHoldsAllReceipts(uint64 count) external pure {
        uint256 depth = Receipts.depth(count);
        assertGe(uint256(1) << depth, count);
        if (depth > 0) assertLt(uint256(1) << (depth - 1), count);
    }

    function test_TheTreesOfTheVectors() external view {
        string memory json = vm.readFile("tallystick/protocol/vectors/merkle.json");
        assertEq(vm.parseJsonBytes32(json, ".empty"), Receipts.EMPTY);
        uint256 trees = 0;
        for (; vm.keyExistsJson(json, key("", trees)); ++trees) {
            string memory tree = key("", trees);
            bytes32[] memory ids = vm.parseJsonBytes32Array(json, string.concat(tree, ".leaves"));
            bytes32 root = vm.parseJsonBytes32(json, string.concat(tree, ".root"));
            assertEq(ReceiptTree.root(ids), root);
            for (uint64 i = 0; i < ids.length; ++i) {
                string memory path = string.concat(tree, ".proofs[", vm.toString(i), "]");
                assertEq(vm.parseJsonUint(json, string.concat(path, ".index")), i);
                bytes32[] memory siblings = vm.parseJsonBytes32Array(json, string.concat(path, ".siblings"));
                assertTrue(Receipts.verify(root, uint64(ids.length), ids[i], i, siblings));
            }
        }
        assertGt(trees, 10);
    }

    function key(string memory prefix, uint256 tree) private pure returns (string memory) {
        return string.concat(prefix, ".trees[", vm.toString(tree), "]");
    }

    function receipts(uint256 count, bytes32 seed) private pure returns (bytes32[] memory ids) {
        ids = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            ids[i] = keccak256(abi.encode(seed, i));
        }
    }
}

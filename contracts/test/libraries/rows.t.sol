// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {Rows} from "../../src/libraries/Rows.sol";

contract Rows_Test is Test {
    using Rows for bytes32;

    function testFuzz_WhatIsPackedIsRead(address account, uint64 amount, uint32 flags) external pure {
        bytes32 row = Rows.pack(account, amount, flags);
        assertEq(row.account(), account);
        assertEq(row.amount(), amount);
        assertEq(row.flags(), flags);
    }

    function testFuzz_EveryWordIsOneRow(bytes32 row) external pure {
        assertEq(Rows.pack(row.account(), row.amount(), row.flags()), row);
    }

    /// @dev The layout that the coordinator writes.
    function test_TheRowsOfTheVectors() external view {
        string memory json = vm.readFile("tallystick/protocol/vectors/rows.json");
        bytes32[] memory words = vm.parseJsonBytes32Array(json, ".words");
        address[] memory accounts = vm.parseJsonAddressArray(json, ".accounts");
        uint256[] memory amounts = vm.parseJsonUintArray(json, ".amounts");
        uint256[] memory flags = vm.parseJsonUintArray(json, ".flags");
        assertGt(words.length, 0);
        for (uint256 i = 0; i < words.length; ++i) {
            assertEq(words[i].account(), accounts[i]);
            assertEq(words[i].amount(), amounts[i]);
            assertEq(words[i].flags(), flags[i]);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {Deploy} from "../../script/Deploy.s.sol";
import {Ledger} from "../../src/Ledger.sol";
import {Stake} from "../../src/Stake.sol";
import {TestUSD} from "../../src/TestUSD.sol";

contract Deploy_Run_Test is Test {
    Deploy private script;
    address private owner = makeAddr("owner");
    address private coordinator = makeAddr("coordinator");
    bytes32 private secretHash = keccak256("a secret");

    function setUp() external {
        vm.warp(1_800_000_000);
        script = new Deploy();
        vm.setEnv("OWNER", vm.toString(owner));
        vm.setEnv("COORDINATOR", vm.toString(coordinator));
        vm.setEnv("AUDIT_SECRET_HASH", vm.toString(secretHash));
    }

    /// @dev One test, because the environment is shared by all that run at a time.
    function test_TheContractsAreReadyForOneDollar() external {
        (address token, Ledger ledger, Stake stake) = script.run();
        assertEq(TestUSD(token).decimals(), 6);
        assertEq(ledger.token(), token);
        assertEq(stake.token(), token);
        assertEq(ledger.owner(), owner);
        assertEq(stake.owner(), owner);
        assertEq(ledger.coordinator(), coordinator);
        assertEq(ledger.auditSecretHash(), secretHash);
        assertEq(ledger.genesis(), 1_800_000_000);
        assertGe(stake.unbonding(), ledger.epochLength() + ledger.settlementLag());

        vm.chainId(1);
        vm.expectRevert(abi.encodeWithSelector(Deploy.Deploy_TokenNeeded.selector, 1));
        script.run();

        vm.setEnv("TOKEN", vm.toString(token));
        (address same,,) = script.run();
        assertEq(same, token);

        vm.setEnv("THAW", vm.toString(uint256(type(uint64).max) + 1));
        vm.expectRevert(bytes("THAW"));
        script.run();
    }
}

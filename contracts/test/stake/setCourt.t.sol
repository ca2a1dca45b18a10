// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {Stake} from "../../src/Stake.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_SetCourt_Test is StakeTest {
    function setUp() public override {
        super.setUp();
        registry = new Stake(config(address(token)));
    }

    function test_TheOwnerNamesTheCourt() external {
        vm.expectEmit(address(registry));
        emit IStake.CourtSet(court);
        vm.prank(owner);
        registry.setCourt(court);
        assertEq(registry.court(), court);
    }

    function test_BeforeThatNobodyCanSlash() external {
        stake(operator, MINIMUM);
        addNode();
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotCourt.selector, court, address(0)));
        slash(DOLLAR);
    }

    function test_RevertWhen_ItIsSetAlready() external {
        vm.startPrank(owner);
        registry.setCourt(court);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_CourtAlreadySet.selector, court));
        registry.setCourt(rival);
    }

    function test_RevertWhen_ItIsNobody() external {
        vm.expectRevert(IStake.Stake_ZeroAddress.selector);
        vm.prank(owner);
        registry.setCourt(address(0));
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheOwner(address caller) external {
        vm.assume(caller != owner);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, caller));
        vm.prank(caller);
        registry.setCourt(court);
    }
}

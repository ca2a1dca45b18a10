// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_RetractModels_Test is StakeTest {
    function setUp() public override {
        super.setUp();
        stake(operator, MINIMUM);
        declare(MODEL);
        declare(OTHER_MODEL);
        vm.warp(START + 5);
    }

    function test_AModelThatIsRetractedIsNotServed() external {
        vm.expectEmit(address(registry));
        emit IStake.ModelRetracted(operator, MODEL);
        retract(MODEL);
        assertFalse(registry.isServing(operator, MODEL));
        assertTrue(registry.isServing(operator, OTHER_MODEL));
    }

    function test_AModelThatIsDeclaredAfreshIsServedSinceThen() external {
        retract(MODEL);
        vm.warp(START + 9);
        declare(MODEL);
        assertEq(registry.servingSince(operator, MODEL), START + 9);
    }

    function test_AModelThatIsNotDeclaredIsPassedOver() external {
        vm.recordLogs();
        retract(keccak256("never declared"));
        assertEq(vm.getRecordedLogs().length, 0);
    }

    function testFuzz_RevertWhen_ThereAreTooMany(uint256 count) external {
        bytes32[] memory models = new bytes32[](bound(count, 65, 300));
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_TooManyModels.selector, models.length, 64));
        vm.prank(operator);
        registry.retractModels(models);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_DeclareModels_Test is StakeTest {
    function testFuzz_AnEligibleOperatorServesWhatItDeclares(bytes32[] calldata models) external {
        vm.assume(models.length <= 64);
        stake(operator, MINIMUM);
        vm.warp(START + 5);
        vm.prank(operator);
        registry.declareModels(models);
        for (uint256 i = 0; i < models.length; ++i) {
            assertTrue(registry.isServing(operator, models[i]));
            assertEq(registry.servingSince(operator, models[i]), START + 5);
        }
    }

    function test_EachNewModelIsAnnounced() external {
        bytes32[] memory models = new bytes32[](2);
        (models[0], models[1]) = (MODEL, OTHER_MODEL);
        vm.expectEmit(address(registry));
        emit IStake.ModelDeclared(operator, MODEL);
        vm.expectEmit(address(registry));
        emit IStake.ModelDeclared(operator, OTHER_MODEL);
        vm.prank(operator);
        registry.declareModels(models);
    }

    function test_AModelThatIsDeclaredAgainKeepsItsDate() external {
        stake(operator, MINIMUM);
        declare(MODEL);
        vm.warp(START + 5);
        vm.recordLogs();
        declare(MODEL);
        assertEq(vm.getRecordedLogs().length, 0);
        assertEq(registry.servingSince(operator, MODEL), START);
    }

    function test_AnOperatorServesSinceItIsBothEligibleAndDeclares() external {
        declare(MODEL);
        assertFalse(registry.isServing(operator, MODEL));
        assertEq(registry.servingSince(operator, MODEL), 0);
        vm.warp(START + 5);
        stake(operator, MINIMUM);
        assertEq(registry.servingSince(operator, MODEL), START + 5);
    }

    function test_OneOperatorsModelsAreNotAnothers() external {
        stake(operator, MINIMUM);
        stake(rival, MINIMUM);
        declare(MODEL);
        assertFalse(registry.isServing(rival, MODEL));
        assertFalse(registry.isServing(operator, OTHER_MODEL));
    }

    function test_TheMostModelsFitIntoABlock() external {
        bytes32[] memory models = new bytes32[](64);
        for (uint256 i = 0; i < models.length; ++i) {
            models[i] = keccak256(abi.encode(i));
        }
        vm.prank(operator);
        uint256 before = gasleft();
        registry.declareModels(models);
        assertLt(before - gasleft(), 5_000_000);
    }

    function testFuzz_RevertWhen_ThereAreTooMany(uint256 count) external {
        bytes32[] memory models = new bytes32[](bound(count, 65, 300));
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_TooManyModels.selector, models.length, 64));
        vm.prank(operator);
        registry.declareModels(models);
    }
}

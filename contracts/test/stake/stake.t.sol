// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_Stake_Test is StakeTest {
    function testFuzz_AUnitIsAThousandNanoDollars(uint256 units) external {
        units = bound(units, 1, MOST_UNITS);
        give(operator, units);
        uint64 amount = uint64(units * 1000);

        vm.expectEmit(address(registry));
        emit IStake.Staked(operator, amount, amount);
        vm.prank(operator);
        registry.stake(units);

        assertStake(operator, amount, 0, 0);
        assertEq(token.balanceOf(address(registry)), units);
        assertEq(token.balanceOf(operator), 0);
    }

    function testFuzz_StakesAddUp(uint64 first, uint64 second) external {
        first = uint64(bound(first, 1, MOST_UNITS / 2)) * 1000;
        second = uint64(bound(second, 1, MOST_UNITS / 2)) * 1000;
        stake(operator, first);
        stake(operator, second);
        assertStake(operator, first + second, 0, 0);
    }

    function test_AStakeLeavesTheQueueAlone() external {
        stake(operator, 10 * DOLLAR);
        requestUnstake(4 * DOLLAR);
        vm.warp(START + 1);
        stake(operator, 5 * DOLLAR);
        assertStake(operator, 11 * DOLLAR, 4 * DOLLAR, START + UNBONDING);
    }

    function test_RevertWhen_NothingArrives() external {
        vm.expectRevert(IStake.Stake_NothingArrived.selector);
        vm.prank(operator);
        registry.stake(0);
    }

    function test_RevertWhen_TheAllowanceDoesNotSuffice() external {
        give(operator, 9);
        token.mint(operator, 1);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(registry), 9, 10)
        );
        vm.prank(operator);
        registry.stake(10);
    }

    function test_RevertWhen_TheBooksCannotHoldTheStake() external {
        give(operator, uint256(MOST_UNITS) + 1);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_TooMuch.selector, uint256(MOST_UNITS) + 1));
        vm.prank(operator);
        registry.stake(uint256(MOST_UNITS) + 1);
    }

    function testFuzz_RevertWhen_TheBooksCannotHoldTheStakeBesideWhatIsLeaving(uint64 leaving) external {
        stake(operator, MOST_UNITS * 1000);
        requestUnstake(uint64(bound(leaving, 1, uint256(MOST_UNITS) * 1000)));
        give(operator, 1);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_TooMuch.selector, 1));
        vm.prank(operator);
        registry.stake(1);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {Stake} from "../../src/Stake.sol";
import {TestUSD} from "../../src/TestUSD.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeHandler} from "./StakeHandler.sol";

/// forge-config: default.invariant.depth = 256
contract Stake_Invariants_Test is Test {
    uint256 private constant DEPTH = 256;
    uint64 private constant MINIMUM = 100e9;

    TestUSD private token;
    Stake private registry;
    StakeHandler private handler;

    function setUp() external {
        vm.warp(1_800_000_000);
        address court = makeAddr("court");
        token = new TestUSD();
        registry = new Stake(IStake.Config(address(token), address(this), MINIMUM, 3 days, 3 hours, 2 days));
        registry.setCourt(court);
        handler = new StakeHandler(registry, token, court);
        targetContract(address(handler));
        targetSelector(FuzzSelector(address(handler), actions()));
    }

    /// @dev One campaign for all of them, since each would run the same actions again.
    function invariant_Stake() external view {
        theTokensCoverTheStakesToTheUnit();
        nobodysStakeIsTouchedByAnother();
        whatIsLeavingHasADate();
        aKeyNeverChangesHands();
        eligibleIsWhoHasTheMinimum();
        theListOnlyGrows();
        thePastDoesNotChange();
    }

    /// @dev The contract has every unit it owes, and besides only what was given to it.
    function theTokensCoverTheStakesToTheUnit() private view {
        uint256 owed = 0;
        for (uint256 i = 0; i < 3; ++i) {
            (uint64 active, uint64 leaving,) = registry.stakeOf(handler.operators(i));
            owed += uint256(active) + leaving;
        }
        assertEq(token.balanceOf(address(registry)) * 1000, owed + handler.donated() * 1000);
    }

    /// @dev An operator has what it staked, without what it took out and what the Court took; in whole units.
    function nobodysStakeIsTouchedByAnother() private view {
        uint256 slashed = 0;
        for (uint256 i = 0; i < 3; ++i) {
            address operator = handler.operators(i);
            (uint256 in_, uint256 out, uint256 lost) = handler.flows(operator);
            (uint64 active, uint64 leaving,) = registry.stakeOf(operator);
            assertEq(uint256(active) + leaving, in_ - out - lost);
            assertEq((uint256(active) + leaving) % 1000, 0);
            assertEq(token.balanceOf(operator) * 1000, out);
            slashed += lost;
        }
        assertEq(token.balanceOf(handler.beneficiary()) * 1000, slashed);
    }

    /// @dev There is a date to wait for whenever something is leaving, and never otherwise.
    function whatIsLeavingHasADate() private view {
        for (uint256 i = 0; i < 3; ++i) {
            (, uint64 leaving, uint64 payableAt) = registry.stakeOf(handler.operators(i));
            assertEq(leaving > 0, payableAt > 0);
        }
    }

    /// @dev A key is its first operator's for good, and an end is an end.
    function aKeyNeverChangesHands() private view {
        address[] memory nodes = handler.nodes();
        for (uint256 i = 0; i < nodes.length; ++i) {
            (address operator, IStake.NodeStatus status) = registry.operatorOf(nodes[i]);
            bool isFirsts = operator == handler.firstOperators(nodes[i]);
            bool isKnown = (operator != address(0)) == (status != IStake.NodeStatus.Unknown);
            bool isEnded = handler.wasEnded(nodes[i]) == (status == IStake.NodeStatus.Ended);
            assertTrue(isFirsts && isKnown && isEnded);
        }
    }

    /// @dev Eligible is who has the minimum at stake, neither more nor less; who is not has a date at which it ended.
    function eligibleIsWhoHasTheMinimum() private view {
        for (uint256 i = 0; i < 3; ++i) {
            address operator = handler.operators(i);
            (uint64 active,,) = registry.stakeOf(operator);
            assertEq(registry.isEligible(operator), active >= MINIMUM);
            assertEq(registry.eligibleSince(operator) != 0, active >= MINIMUM);
            if (active >= MINIMUM) assertEq(registry.eligibleUntil(operator), 0);
        }
    }

    /// @dev The list names exactly those that were ever eligible, once each, and only grows at its end.
    function theListOnlyGrows() private view {
        address[] memory all = handler.list();
        address[] memory before = handler.listed();
        for (uint256 i = 0; i < before.length; ++i) {
            assertEq(all[i], before[i]);
        }
        uint256 known = 0;
        for (uint256 i = 0; i < 3; ++i) {
            address operator = handler.operators(i);
            bool wasEligible = registry.isEligible(operator) || registry.eligibleUntil(operator) != 0;
            assertEq(count(all, operator), wasEligible ? 1 : 0);
            if (wasEligible) ++known;
        }
        assertEq(all.length, known);
    }

    /// @dev What was is told the same, whatever happens later.
    function thePastDoesNotChange() private view {
        StakeHandler.Sample[] memory samples = handler.samples();
        for (uint256 i = 0; i < samples.length; ++i) {
            StakeHandler.Sample memory one = samples[i];
            assertEq(registry.eligibleSinceAt(one.operator, one.time), one.eligibleSince);
            assertEq(registry.servingSinceAt(one.operator, one.modelId, one.time), one.servingSince);
        }
    }

    /// @dev A run in which some action never succeeded would prove nothing about it. Shorter runs are forge's own, when it
    /// looks for the least that breaks an invariant.
    function afterInvariant() external view {
        if (handler.tried() < DEPTH) return;
        bytes4[] memory selectors = actions();
        for (uint256 i = 0; i < selectors.length; ++i) {
            assertGt(handler.succeeded(selectors[i]), 0, vm.toString(abi.encodePacked(selectors[i])));
        }
    }

    function actions() private pure returns (bytes4[] memory selectors) {
        selectors = new bytes4[](14);
        selectors[0] = StakeHandler.stake.selector;
        selectors[1] = StakeHandler.requestUnstake.selector;
        selectors[2] = StakeHandler.unstake.selector;
        selectors[3] = StakeHandler.addNode.selector;
        selectors[4] = StakeHandler.removeNode.selector;
        selectors[5] = StakeHandler.declareModel.selector;
        selectors[6] = StakeHandler.retractModel.selector;
        selectors[7] = StakeHandler.slash.selector;
        selectors[8] = StakeHandler.endNode.selector;
        selectors[9] = StakeHandler.lock.selector;
        selectors[10] = StakeHandler.unlock.selector;
        selectors[11] = StakeHandler.usurp.selector;
        selectors[12] = StakeHandler.donate.selector;
        selectors[13] = StakeHandler.wait.selector;
    }

    function count(address[] memory all, address one) private pure returns (uint256 found) {
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i] == one) ++found;
        }
    }
}

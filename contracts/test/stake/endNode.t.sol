// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_EndNode_Test is StakeTest {
    function test_AnActiveNodeIsEnded() external {
        addNode();
        vm.expectEmit(address(registry));
        emit IStake.NodeEnded(operator, node);
        end();
        assertNode(node, operator, IStake.NodeStatus.Ended);
    }

    function test_ARemovedNodeIsEnded() external {
        addNode();
        vm.prank(operator);
        registry.removeNode(node);
        end();
        assertNode(node, operator, IStake.NodeStatus.Ended);
    }

    function test_AnEndedNodeIsLeftAlone() external {
        addNode();
        end();
        vm.recordLogs();
        end();
        assertEq(vm.getRecordedLogs().length, 0);
        assertNode(node, operator, IStake.NodeStatus.Ended);
    }

    function test_RevertWhen_TheNodeIsUnknown() external {
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_UnknownNode.selector, node));
        end();
    }

    function testFuzz_RevertWhen_TheCallerIsNotTheCourt(address caller) external {
        vm.assume(caller != court);
        addNode();
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NotCourt.selector, caller, court));
        vm.prank(caller);
        registry.endNode(node);
    }

    function end() private {
        vm.prank(court);
        registry.endNode(node);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_RemoveNode_Test is StakeTest {
    function test_ARemovedNodeStaysItsOperators() external {
        addNode();
        vm.expectEmit(address(registry));
        emit IStake.NodeRemoved(operator, node);
        vm.prank(operator);
        registry.removeNode(node);
        assertNode(node, operator, IStake.NodeStatus.Removed);
    }

    function test_ARemovedNodeCanStillBeSlashed() external {
        stake(operator, MINIMUM);
        addNode();
        vm.prank(operator);
        registry.removeNode(node);
        assertEq(slash(DOLLAR), DOLLAR);
    }

    function testFuzz_RevertWhen_TheCallerIsNotItsOperator(address caller) external {
        vm.assume(caller != operator);
        addNode();
        expectRefusal(caller, abi.encodeWithSelector(IStake.Stake_NotYourNode.selector, node, caller));
    }

    function test_RevertWhen_ItIsUnknown() external {
        expectRefusal(operator, abi.encodeWithSelector(IStake.Stake_NotYourNode.selector, node, operator));
    }

    function test_RevertWhen_ItIsRemovedAlready() external {
        addNode();
        vm.prank(operator);
        registry.removeNode(node);
        expectRefusal(operator, notActive(IStake.NodeStatus.Removed));
    }

    function test_RevertWhen_TheCourtEndedIt() external {
        addNode();
        vm.prank(court);
        registry.endNode(node);
        expectRefusal(operator, notActive(IStake.NodeStatus.Ended));
    }

    function notActive(IStake.NodeStatus status) private view returns (bytes memory) {
        return abi.encodeWithSelector(IStake.Stake_NodeNotActive.selector, node, status);
    }

    function expectRefusal(address caller, bytes memory refusal) private {
        vm.expectRevert(refusal);
        vm.prank(caller);
        registry.removeNode(node);
    }
}

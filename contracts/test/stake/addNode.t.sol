// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Stake} from "../../src/Stake.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_AddNode_Test is StakeTest {
    function testFuzz_ANodeThatConsentsIsItsOperators(uint256 key) external {
        key = boundPrivateKey(key);
        address added = vm.addr(key);
        bytes memory signature = signConsent(key, operator, added);

        vm.expectEmit(address(registry));
        emit IStake.NodeAdded(operator, added);
        vm.prank(operator);
        registry.addNode(added, signature);

        assertNode(added, operator, IStake.NodeStatus.Active);
    }

    function test_AnOperatorMayHaveMoreNodes() external {
        addNode();
        bytes memory signature = signConsent(otherNodeKey, operator, otherNode);
        vm.prank(operator);
        registry.addNode(otherNode, signature);
        assertNode(node, operator, IStake.NodeStatus.Active);
        assertNode(otherNode, operator, IStake.NodeStatus.Active);
    }

    function test_ItsOperatorMayAddARemovedNodeAgain() external {
        addNode();
        vm.prank(operator);
        registry.removeNode(node);
        addNode();
        assertNode(node, operator, IStake.NodeStatus.Active);
    }

    function test_RevertWhen_ItIsActiveAlready() external {
        addNode();
        expectRefusal(
            signConsent(nodeKey, operator, node), abi.encodeWithSelector(IStake.Stake_NodeAlreadyActive.selector, node)
        );
    }

    function test_RevertWhen_ItBelongsToAnother() external {
        addNode();
        bytes memory signature = signConsent(nodeKey, rival, node);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NodeAlreadyActive.selector, node));
        vm.prank(rival);
        registry.addNode(node, signature);
    }

    function test_RevertWhen_ItBelongedToAnotherAndWasRemoved() external {
        addNode();
        vm.prank(operator);
        registry.removeNode(node);
        bytes memory signature = signConsent(nodeKey, rival, node);
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_NodeTaken.selector, node, operator));
        vm.prank(rival);
        registry.addNode(node, signature);
    }

    function test_RevertWhen_TheCourtEndedIt() external {
        addNode();
        vm.prank(court);
        registry.endNode(node);
        expectRefusal(
            signConsent(nodeKey, operator, node), abi.encodeWithSelector(IStake.Stake_NodeIsEnded.selector, node)
        );
    }

    function testFuzz_RevertWhen_AnotherKeySigned(uint256 key) external {
        key = boundPrivateKey(key);
        vm.assume(vm.addr(key) != node);
        expectForged(signConsent(key, operator, node), vm.addr(key));
    }

    function test_RevertWhen_TheConsentNamesAnotherOperator() external {
        bytes memory signature = signConsent(nodeKey, rival, node);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(nodeKey, digest(rival, node));
        expectForged(signature, ecrecover(digest(operator, node), v, r, s));
    }

    function test_RevertWhen_TheConsentIsForAnotherStake() external {
        Stake another = new Stake(config(address(token)));
        bytes memory signature = signConsent(nodeKey, operator, node);
        vm.expectPartialRevert(IStake.Stake_ConsentForged.selector);
        vm.prank(operator);
        another.addNode(node, signature);
    }

    function test_RevertWhen_TheConsentIsForAnotherChain() external {
        bytes memory signature = signConsent(nodeKey, operator, node);
        vm.chainId(block.chainid + 1);
        vm.expectPartialRevert(IStake.Stake_ConsentForged.selector);
        vm.prank(operator);
        registry.addNode(node, signature);
    }

    function testFuzz_RevertWhen_ItIsNotASignature(bytes calldata signature) external {
        vm.assume(signature.length != 65);
        expectForged(signature, address(0));
    }

    function test_RevertWhen_TheNodeIsNobody() external {
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_ConsentForged.selector, operator, address(0), address(0)));
        vm.prank(operator);
        registry.addNode(address(0), new bytes(65));
    }

    function expectForged(bytes memory signature, address signer) private {
        expectRefusal(signature, abi.encodeWithSelector(IStake.Stake_ConsentForged.selector, operator, node, signer));
    }

    function expectRefusal(bytes memory signature, bytes memory refusal) private {
        vm.expectRevert(refusal);
        vm.prank(operator);
        registry.addNode(node, signature);
    }
}

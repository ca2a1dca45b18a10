// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {Stake} from "../../src/Stake.sol";
import {TestUSD} from "../../src/TestUSD.sol";
import {IStake} from "../../src/interfaces/IStake.sol";

/// @notice What the tests of the Stake share: a deployed Stake with a Court, people with keys, and builders.
abstract contract StakeTest is Test {
    uint64 internal constant START = 1_800_000_000;
    uint64 internal constant HORIZON = 3 hours;
    uint64 internal constant CASE_WINDOW = 2 days;
    uint64 internal constant UNBONDING = 3 days;
    uint64 internal constant DOLLAR = 1e9;
    uint64 internal constant MINIMUM = 100 * DOLLAR;
    uint64 internal constant MOST_UNITS = type(uint64).max / 1000;
    bytes32 internal constant MODEL = keccak256("a model");
    bytes32 internal constant OTHER_MODEL = keccak256("another model");
    bytes32 internal constant CASE = keccak256("a case");
    bytes32 internal constant NODE_CONSENT_TYPEHASH = keccak256("NodeConsent(address operator,address node)");

    TestUSD internal token;
    Stake internal registry;

    address internal owner = makeAddr("owner");
    address internal court = makeAddr("court");
    address internal beneficiary = makeAddr("beneficiary");
    address internal operator;
    uint256 internal operatorKey;
    address internal rival = makeAddr("rival");
    address internal node;
    uint256 internal nodeKey;
    address internal otherNode;
    uint256 internal otherNodeKey;

    function setUp() public virtual {
        vm.warp(START);
        (operator, operatorKey) = makeAddrAndKey("operator");
        (node, nodeKey) = makeAddrAndKey("node");
        (otherNode, otherNodeKey) = makeAddrAndKey("other node");
        deploy(new TestUSD());
    }

    function deploy(TestUSD token_) internal {
        token = token_;
        registry = new Stake(config(address(token_)));
        vm.prank(owner);
        registry.setCourt(court);
    }

    function config(address token_) internal view returns (IStake.Config memory) {
        return IStake.Config({
            token: token_,
            owner: owner,
            minimum: MINIMUM,
            unbonding: UNBONDING,
            settlementHorizon: HORIZON,
            caseWindow: CASE_WINDOW
        });
    }

    // ----------------------------------------------------------------------------------------------------------- Actions

    function give(address to, uint256 units) internal {
        token.mint(to, units);
        vm.prank(to);
        token.approve(address(registry), units);
    }

    /// @dev Stakes `amount` nano-dollars, which are whole units.
    function stake(address from, uint64 amount) internal {
        give(from, amount / 1000);
        vm.prank(from);
        registry.stake(amount / 1000);
    }

    function requestUnstake(uint64 amount) internal {
        vm.prank(operator);
        registry.requestUnstake(amount);
    }

    function addNode() internal {
        bytes memory signature = signConsent(nodeKey, operator, node);
        vm.prank(operator);
        registry.addNode(node, signature);
    }

    function slash(uint64 amount) internal returns (uint64) {
        vm.prank(court);
        return registry.slash(node, amount, CASE, beneficiary);
    }

    function lock() internal {
        vm.prank(court);
        registry.lock(operator);
    }

    function unlock() internal {
        vm.prank(court);
        registry.unlock(operator);
    }

    function declare(bytes32 model) internal {
        bytes32[] memory models = one(model);
        vm.prank(operator);
        registry.declareModels(models);
    }

    function retract(bytes32 model) internal {
        bytes32[] memory models = one(model);
        vm.prank(operator);
        registry.retractModels(models);
    }

    // ---------------------------------------------------------------------------------------------------------- Builders

    function one(bytes32 model) internal pure returns (bytes32[] memory models) {
        models = new bytes32[](1);
        models[0] = model;
    }

    function digest(address operator_, address node_) internal view returns (bytes32) {
        bytes32 structHash = keccak256(abi.encode(NODE_CONSENT_TYPEHASH, operator_, node_));
        return MessageHashUtils.toTypedDataHash(registry.DOMAIN_SEPARATOR(), structHash);
    }

    function signConsent(uint256 key, address operator_, address node_) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest(operator_, node_));
        return abi.encodePacked(r, s, v);
    }

    // -------------------------------------------------------------------------------------------------------- Assertions

    function assertStake(address of_, uint64 active, uint64 leaving, uint64 payableAt) internal view {
        (uint64 active_, uint64 leaving_, uint64 payableAt_) = registry.stakeOf(of_);
        assertEq(active_, active, "active");
        assertEq(leaving_, leaving, "leaving");
        assertEq(payableAt_, payableAt, "payable at");
    }

    function assertNode(address node_, address operator_, IStake.NodeStatus status) internal view {
        (address found, IStake.NodeStatus actual) = registry.operatorOf(node_);
        assertEq(found, operator_, "operator");
        assertEq(uint8(actual), uint8(status), "status");
    }
}

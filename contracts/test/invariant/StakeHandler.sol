// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {Stake} from "../../src/Stake.sol";
import {TestUSD} from "../../src/TestUSD.sol";
import {IStake} from "../../src/interfaces/IStake.sol";

/// @notice Three operators who share sixteen node keys, a Court and a stranger do to a Stake whatever they may, and try what
/// they may not. What must come of it is written down here as it happens, for the invariants to compare.
contract StakeHandler is Test {
    bytes32 private constant NODE_CONSENT_TYPEHASH = keccak256("NodeConsent(address operator,address node)");
    uint256 private constant NODES = 16;
    uint256 private constant FIRST_KEY = 1000;

    /// @dev All in nano-dollars, ever.
    struct Flow {
        uint256 staked;
        uint256 unstaked;
        uint256 slashed;
    }

    /// @dev What an operator's present was at the end of some second.
    struct Sample {
        address operator;
        bytes32 modelId;
        uint64 time;
        uint64 eligibleSince;
        uint64 servingSince;
    }

    Stake public immutable registry;
    TestUSD public immutable token;
    address public immutable court;
    address public immutable beneficiary = makeAddr("beneficiary");

    address[] public operators;
    address[] private _nodes;
    bytes32[] private _models;
    Sample[] private _samples;
    address[] private _listed;

    mapping(address operator => Flow) public flows;
    mapping(address node => address) public firstOperators;
    mapping(address node => bool) public wasEnded;
    /// @dev All calls, and by function those that did what they are for.
    uint256 public tried;
    mapping(bytes4 selector => uint256) public succeeded;
    uint256 public donated;

    modifier action() {
        _;
        ++tried;
    }

    constructor(Stake registry_, TestUSD token_, address court_) {
        (registry, token, court) = (registry_, token_, court_);
        for (uint256 i = 1; i <= 3; ++i) {
            operators.push(vm.addr(i));
        }
        for (uint256 i = 0; i < NODES; ++i) {
            _nodes.push(vm.addr(FIRST_KEY + i));
        }
        _models.push("one");
        _models.push("two");
    }

    // --------------------------------------------------------------------------------------------------------- Operators

    function stake(uint256 who, uint256 units) external action {
        stakeAs(operatorFor(who), bound(units, 1, 300e6));
        ++succeeded[msg.sig];
    }

    function requestUnstake(uint256 who, uint64 amount) external action {
        address operator = operatorFor(who);
        (uint64 active,,) = registry.stakeOf(operator);
        if (active == 0) return;
        amount = uint64(bound(amount, 1, active));
        vm.prank(operator);
        registry.requestUnstake(amount);
        (,, uint64 payableAt) = registry.stakeOf(operator);
        assertEq(payableAt, block.timestamp + registry.unbonding(), "the clock starts again");
        ++succeeded[msg.sig];
    }

    /// @dev Asks for the money at any time, and gets it exactly when it is due and no case is open. Who is patient has some.
    function unstake(uint256 who, uint8 patience) external action {
        address operator = operatorFor(who);
        if (patience % 4 != 0) {
            (uint64 active, uint64 leavingNow,) = registry.stakeOf(operator);
            if (active + leavingNow == 0) stakeAs(operator, 1e6);
            awaitExit(operator);
        }
        (, uint64 leaving, uint64 payableAt) = registry.stakeOf(operator);
        bool isDue = leaving >= 1000 && block.timestamp >= payableAt && registry.locksOf(operator) == 0;
        uint256 before = token.balanceOf(operator);

        vm.prank(operator);
        try registry.unstake() {
            assertTrue(isDue, "stake left before its time");
            uint256 paid = token.balanceOf(operator) - before;
            assertEq(paid, leaving / 1000, "all of it leaves");
            flows[operator].unstaked += paid * 1000;
            ++succeeded[msg.sig];
        } catch {
            assertFalse(isDue, "stake that is due did not leave");
        }
    }

    /// @dev Any operator tries to add any node with a good signature, and may if it was the first.
    function addNode(uint256 who, uint256 which) external action {
        address operator = operatorFor(who);
        uint256 key = FIRST_KEY + which % NODES;
        address node = nodeFor(which);
        (address first, IStake.NodeStatus status) = registry.operatorOf(node);
        bool isFree = status == IStake.NodeStatus.Unknown || (status == IStake.NodeStatus.Removed && first == operator);
        bytes memory signature = sign(key, operator, node);

        vm.prank(operator);
        try registry.addNode(node, signature) {
            assertTrue(isFree, "a key changed hands, or was added again after its end");
            if (status == IStake.NodeStatus.Unknown) firstOperators[node] = operator;
            ++succeeded[msg.sig];
        } catch {
            assertFalse(isFree, "a free key was refused");
        }
    }

    function removeNode(uint256 which) external action {
        (address node, address operator) = activeNodeFrom(which);
        if (node == address(0)) return;
        vm.prank(operator);
        registry.removeNode(node);
        ++succeeded[msg.sig];
    }

    function declareModel(uint256 who, uint256 which) external action {
        vm.prank(operatorFor(who));
        registry.declareModels(modelFor(which));
        ++succeeded[msg.sig];
    }

    function retractModel(uint256 who, uint256 which) external action {
        vm.prank(operatorFor(who));
        registry.retractModels(modelFor(which));
        ++succeeded[msg.sig];
    }

    // ------------------------------------------------------------------------------------------------------------- Court

    function slash(uint256 which, uint64 amount, bytes32 caseId) external action {
        (address node, address operator) = knownNodeFrom(which);
        if (node == address(0)) return;
        // Mostly a part of the stake, now and then far more than it.
        if (amount % 4 != 0) amount %= 100e9;
        (uint64 active, uint64 leaving,) = registry.stakeOf(operator);

        vm.prank(court);
        uint64 taken = registry.slash(node, amount, caseId, beneficiary);

        uint64 most = active + leaving;
        assertEq(taken, (amount < most ? amount : most) / 1000 * 1000, "what is taken");
        (, uint64 stillLeaving,) = registry.stakeOf(operator);
        assertTrue(stillLeaving == leaving || taken > active, "active stake goes first");
        flows[operator].slashed += taken;
        ++succeeded[msg.sig];
    }

    function endNode(uint256 which) external action {
        (address node,) = knownNodeFrom(which);
        if (node == address(0)) return;
        vm.prank(court);
        registry.endNode(node);
        wasEnded[node] = true;
        ++succeeded[msg.sig];
    }

    function lock(uint256 who) external action {
        vm.prank(court);
        registry.lock(operatorFor(who));
        ++succeeded[msg.sig];
    }

    /// @dev Closes every open case, so that operators are free about as often as locked.
    function unlock(uint256 who) external action {
        if (unlockAll(operatorFor(who))) ++succeeded[msg.sig];
    }

    // ------------------------------------------------------------------------------------------------------------ Others

    /// @dev A stranger, or an operator, tries what only the Court may.
    function usurp(address caller, uint256 which, uint64 amount) external action {
        if (caller == court) caller = operators[0];
        address node = nodeFor(which);
        vm.startPrank(caller);
        vm.expectPartialRevert(IStake.Stake_NotCourt.selector);
        registry.slash(node, amount, "mine", caller);
        vm.expectPartialRevert(IStake.Stake_NotCourt.selector);
        registry.endNode(node);
        vm.expectPartialRevert(IStake.Stake_NotCourt.selector);
        registry.lock(operators[1]);
        vm.expectPartialRevert(IStake.Stake_NotCourt.selector);
        registry.unlock(operators[1]);
        vm.stopPrank();
        ++succeeded[msg.sig];
    }

    function donate(uint256 units) external action {
        units = bound(units, 1, 1e6);
        token.mint(address(registry), units);
        donated += units;
        ++succeeded[msg.sig];
    }

    /// @dev Ends the second: what an operator is now must be told the same for ever after.
    function wait(uint256 who, uint256 which, uint256 time) external action {
        address operator = operatorFor(who);
        bytes32 modelId = modelFor(which)[0];
        _samples.push(
            Sample({
                operator: operator,
                modelId: modelId,
                time: uint64(block.timestamp),
                eligibleSince: registry.eligibleSince(operator),
                servingSince: registry.servingSince(operator, modelId)
            })
        );
        _listed = list();
        vm.warp(block.timestamp + bound(time, 1, 2 days));
        ++succeeded[msg.sig];
    }

    // ------------------------------------------------------------------------------------------------------------- Views

    function samples() external view returns (Sample[] memory) {
        return _samples;
    }

    /// @notice The list of operators as it stood at some time.
    function listed() external view returns (address[] memory) {
        return _listed;
    }

    function list() public view returns (address[] memory all) {
        all = new address[](registry.operatorCount());
        for (uint256 i = 0; i < all.length; ++i) {
            all[i] = registry.operatorAt(i);
        }
    }

    function nodes() external view returns (address[] memory) {
        return _nodes;
    }

    function operatorFor(uint256 who) private view returns (address) {
        return operators[who % operators.length];
    }

    function nodeFor(uint256 which) private view returns (address) {
        return _nodes[which % NODES];
    }

    function stakeAs(address operator, uint256 units) private {
        token.mint(operator, units);
        vm.startPrank(operator);
        token.approve(address(registry), units);
        registry.stake(units);
        vm.stopPrank();
        flows[operator].staked += units * 1000;
    }

    /// @dev Brings an operator to where all of its stake is payable.
    function awaitExit(address operator) private {
        unlockAll(operator);
        (uint64 active,,) = registry.stakeOf(operator);
        if (active > 0) {
            vm.prank(operator);
            registry.requestUnstake(active);
        }
        (,, uint64 payableAt) = registry.stakeOf(operator);
        if (payableAt > block.timestamp) vm.warp(payableAt);
    }

    function unlockAll(address operator) private returns (bool wasLocked) {
        wasLocked = registry.locksOf(operator) > 0;
        while (registry.locksOf(operator) > 0) {
            vm.prank(court);
            registry.unlock(operator);
        }
    }

    /// @dev Returns the next active node and its operator; zeros if there is none.
    function activeNodeFrom(uint256 which) private view returns (address, address) {
        for (uint256 i = 0; i < NODES; ++i) {
            address node = nodeFor(which % NODES + i);
            (address operator, IStake.NodeStatus status) = registry.operatorOf(node);
            if (status == IStake.NodeStatus.Active) return (node, operator);
        }
        return (address(0), address(0));
    }

    /// @dev Returns the next node that has an operator, and that operator; zeros if there is none.
    function knownNodeFrom(uint256 which) private view returns (address, address) {
        for (uint256 i = 0; i < NODES; ++i) {
            address node = nodeFor(which % NODES + i);
            (address operator,) = registry.operatorOf(node);
            if (operator != address(0)) return (node, operator);
        }
        return (address(0), address(0));
    }

    function modelFor(uint256 which) private view returns (bytes32[] memory models) {
        models = new bytes32[](1);
        models[0] = _models[which % _models.length];
    }

    function sign(uint256 key, address operator, address node) private view returns (bytes memory) {
        bytes32 structHash = keccak256(abi.encode(NODE_CONSENT_TYPEHASH, operator, node));
        bytes32 digest = MessageHashUtils.toTypedDataHash(registry.DOMAIN_SEPARATOR(), structHash);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}

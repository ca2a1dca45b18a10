// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Time} from "@openzeppelin/contracts/utils/types/Time.sol";

import {IStake} from "./interfaces/IStake.sol";

/// @title Stake
/// @notice See `IStake`.
/// @dev At any time the contract holds at least Σ (active + leaving), in tokens. That sum is whole units for every operator:
/// units come in, and units go out. Every function that moves tokens is guarded, because a stake is measured by what
/// arrived: a token that called back in between would have its inner transfer counted twice.
contract Stake is IStake, EIP712, Ownable2Step, ReentrancyGuardTransient {
    using Checkpoints for Checkpoints.Trace208;
    using SafeERC20 for IERC20;

    /// @dev Nano-dollars in one unit of the token.
    uint64 private constant SCALE = 1000;
    /// @dev No time is longer: more is a slip of the unit, and would be a way to keep stakes.
    uint64 private constant LONGEST = 365 days;
    bytes32 private constant NODE_CONSENT_TYPEHASH = keccak256("NodeConsent(address operator,address node)");

    /// @dev Nano-dollars, when what is leaving is payable (0: nothing is leaving), and the open cases; one word.
    struct Books {
        uint64 active;
        uint64 leaving;
        uint64 payableAt;
        uint32 locks;
    }

    /// @dev One word.
    struct Node {
        address operator;
        NodeStatus status;
    }

    uint256 public constant MOST_MODELS = 64;
    address public immutable token;
    uint64 public immutable minimum;
    uint64 public immutable unbonding;

    address public court;
    mapping(address operator => Books) private _books;
    mapping(address node => Node) private _nodes;
    address[] private _operators;

    /// @dev At the time of each change, since when the operator is eligible (or declares the model) from then on; 0: it is
    /// not. The whole history is kept, so that a panel drawn from the past cannot be changed by joining or leaving later.
    mapping(address operator => Checkpoints.Trace208) private _eligibility;
    mapping(address operator => mapping(bytes32 modelId => Checkpoints.Trace208)) private _declarations;

    modifier onlyCourt() {
        if (msg.sender != court) revert Stake_NotCourt(msg.sender, court);
        _;
    }

    constructor(Config memory config) EIP712("Tallystick", "1") Ownable(config.owner) {
        _check(config);
        token = config.token;
        minimum = config.minimum;
        unbonding = config.unbonding;
    }

    // --------------------------------------------------------------------------------------------------------- Operators

    /// @inheritdoc IStake
    function stake(uint256 units) external nonReentrant {
        _stake(units);
    }

    /// @inheritdoc IStake
    function stakeWithPermit(uint256 units, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        // A permit that somebody else sent first has already set the allowance; the transfer tells whether it suffices.
        // What the token calls back into is guarded.
        // slither-disable-next-line reentrancy-benign
        try IERC20Permit(token).permit(msg.sender, address(this), units, deadline, v, r, s) {} catch {}
        _stake(units);
    }

    /// @inheritdoc IStake
    function addNode(address node, bytes calldata nodeSignature) external {
        // Checks.
        Node memory known = _nodes[node];
        if (known.status == NodeStatus.Ended) revert Stake_NodeIsEnded(node);
        if (known.status == NodeStatus.Active) revert Stake_NodeAlreadyActive(node);
        if (known.operator != address(0) && known.operator != msg.sender) revert Stake_NodeTaken(node, known.operator);
        bytes32 digest = _hashTypedDataV4(keccak256(abi.encode(NODE_CONSENT_TYPEHASH, msg.sender, node)));
        // Why it is not a signature does not matter.
        // slither-disable-next-line unused-return
        (address signer,,) = ECDSA.tryRecover(digest, nodeSignature);
        // What is not a signature recovers 0, which a caller may name as its node.
        if (signer == address(0) || signer != node) revert Stake_ConsentForged(msg.sender, node, signer);

        // Effects.
        _nodes[node] = Node(msg.sender, NodeStatus.Active);
        emit NodeAdded(msg.sender, node);
    }

    /// @inheritdoc IStake
    function removeNode(address node) external {
        Node memory known = _nodes[node];
        if (known.operator != msg.sender) revert Stake_NotYourNode(node, msg.sender);
        if (known.status != NodeStatus.Active) revert Stake_NodeNotActive(node, known.status);

        _nodes[node].status = NodeStatus.Removed;
        emit NodeRemoved(msg.sender, node);
    }

    /// @inheritdoc IStake
    function declareModels(bytes32[] calldata modelIds) external {
        if (modelIds.length > MOST_MODELS) revert Stake_TooManyModels(modelIds.length, MOST_MODELS);

        for (uint256 i = 0; i < modelIds.length; ++i) {
            if (_mark(_declarations[msg.sender][modelIds[i]], true)) emit ModelDeclared(msg.sender, modelIds[i]);
        }
    }

    /// @inheritdoc IStake
    function retractModels(bytes32[] calldata modelIds) external {
        if (modelIds.length > MOST_MODELS) revert Stake_TooManyModels(modelIds.length, MOST_MODELS);

        for (uint256 i = 0; i < modelIds.length; ++i) {
            if (_mark(_declarations[msg.sender][modelIds[i]], false)) emit ModelRetracted(msg.sender, modelIds[i]);
        }
    }

    /// @inheritdoc IStake
    function requestUnstake(uint64 amount) external {
        // Checks.
        Books memory books = _books[msg.sender];
        if (amount == 0) revert Stake_ZeroAmount();
        if (amount > books.active) revert Stake_BeyondActive(msg.sender, amount, books.active);

        // Effects.
        books.active -= amount;
        books.leaving += amount;
        books.payableAt = uint64(block.timestamp) + unbonding;
        _books[msg.sender] = books;
        emit UnstakeRequested(msg.sender, amount, books.leaving, books.payableAt);
        _refreshEligibility(msg.sender, books.active);
    }

    /// @inheritdoc IStake
    function unstake() external nonReentrant {
        // Checks.
        Books memory books = _books[msg.sender];
        // Whole units go out; the rest stays.
        // slither-disable-next-line divide-before-multiply
        uint64 units = books.leaving / SCALE;
        if (units == 0) revert Stake_NothingLeaving(msg.sender, books.leaving);
        // The unbonding is days: what a validator can shift does not matter.
        // slither-disable-next-line timestamp
        if (block.timestamp < books.payableAt) revert Stake_StillUnbonding(msg.sender, books.payableAt);
        if (books.locks > 0) revert Stake_IsLocked(msg.sender, books.locks);

        // Effects.
        uint64 amount = units * SCALE;
        books.leaving -= amount;
        if (books.leaving == 0) books.payableAt = 0;
        _books[msg.sender] = books;
        emit Unstaked(msg.sender, units, amount);

        // Interactions.
        IERC20(token).safeTransfer(msg.sender, units);
    }

    // ------------------------------------------------------------------------------------------------------------- Court

    /// @inheritdoc IStake
    function setCourt(address court_) external onlyOwner {
        if (court_ == address(0)) revert Stake_ZeroAddress();
        if (court != address(0)) revert Stake_CourtAlreadySet(court);

        court = court_;
        emit CourtSet(court_);
    }

    /// @inheritdoc IStake
    function slash(address node, uint64 amount, bytes32 caseId, address to)
        external
        onlyCourt
        nonReentrant
        returns (uint64 taken)
    {
        // Checks.
        if (to == address(0)) revert Stake_ZeroAddress();
        address operator = _knownOperator(node);

        // Effects.
        Books memory books = _books[operator];
        // Both are below 2^64, and the smaller one bounds what is taken; whole units go out.
        // forge-lint: disable-next-line(unsafe-typecast)
        // slither-disable-next-line divide-before-multiply
        uint64 units = uint64(Math.min(amount, books.active + books.leaving)) / SCALE;
        taken = units * SCALE;
        // forge-lint: disable-next-line(unsafe-typecast)
        uint64 fromActive = uint64(Math.min(taken, books.active));
        books.active -= fromActive;
        books.leaving -= taken - fromActive;
        if (books.leaving == 0) books.payableAt = 0;
        _books[operator] = books;
        emit Slashed(operator, node, caseId, taken);
        _refreshEligibility(operator, books.active);

        // Interactions.
        if (units > 0) IERC20(token).safeTransfer(to, units);
    }

    /// @inheritdoc IStake
    function endNode(address node) external onlyCourt {
        address operator = _knownOperator(node);
        if (_nodes[node].status == NodeStatus.Ended) return;

        _nodes[node].status = NodeStatus.Ended;
        emit NodeEnded(operator, node);
    }

    /// @inheritdoc IStake
    function lock(address operator) external onlyCourt {
        uint32 locks = ++_books[operator].locks;
        emit Locked(operator, locks);
    }

    /// @inheritdoc IStake
    function unlock(address operator) external onlyCourt {
        if (_books[operator].locks == 0) revert Stake_NotLocked(operator);

        uint32 locks = --_books[operator].locks;
        emit Unlocked(operator, locks);
    }

    // ------------------------------------------------------------------------------------------------------------- Views

    /// @inheritdoc IStake
    function operatorOf(address node) external view returns (address operator, NodeStatus status) {
        Node memory known = _nodes[node];
        return (known.operator, known.status);
    }

    /// @inheritdoc IStake
    function stakeOf(address operator) external view returns (uint64 active, uint64 leaving, uint64 payableAt) {
        Books memory books = _books[operator];
        return (books.active, books.leaving, books.payableAt);
    }

    /// @inheritdoc IStake
    function locksOf(address operator) external view returns (uint32) {
        return _books[operator].locks;
    }

    /// @inheritdoc IStake
    function isEligible(address operator) external view returns (bool) {
        return _eligibility[operator].latest() != 0;
    }

    /// @inheritdoc IStake
    function eligibleSince(address operator) public view returns (uint64) {
        return uint64(_eligibility[operator].latest());
    }

    /// @inheritdoc IStake
    function eligibleUntil(address operator) external view returns (uint64) {
        // An operator without a history has zeros for a checkpoint.
        // slither-disable-next-line unused-return
        (, uint48 changedAt, uint208 since) = _eligibility[operator].latestCheckpoint();
        return since == 0 ? changedAt : 0;
    }

    /// @inheritdoc IStake
    function eligibleSinceAt(address operator, uint64 time) public view returns (uint64) {
        return _since(_eligibility[operator], time);
    }

    /// @inheritdoc IStake
    function isServing(address operator, bytes32 modelId) external view returns (bool) {
        return servingSince(operator, modelId) != 0;
    }

    /// @inheritdoc IStake
    function servingSince(address operator, bytes32 modelId) public view returns (uint64) {
        return _later(eligibleSince(operator), uint64(_declarations[operator][modelId].latest()));
    }

    /// @inheritdoc IStake
    function servingSinceAt(address operator, bytes32 modelId, uint64 time) external view returns (uint64) {
        return _later(eligibleSinceAt(operator, time), _since(_declarations[operator][modelId], time));
    }

    /// @inheritdoc IStake
    function operatorCount() external view returns (uint256) {
        return _operators.length;
    }

    /// @inheritdoc IStake
    function operatorAt(uint256 index) external view returns (address) {
        return _operators[index];
    }

    /// @inheritdoc IStake
    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // ------------------------------------------------------------------------------------------------------------- Stakes

    /// @dev Takes units from the caller and makes what arrived its active stake.
    function _stake(uint256 units) private {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), units);
        uint256 arrived = IERC20(token).balanceOf(address(this)) - before;
        if (arrived == 0) revert Stake_NothingArrived();

        Books memory books = _books[msg.sender];
        uint256 room = (type(uint64).max - books.active - books.leaving) / SCALE;
        if (arrived > room) revert Stake_TooMuch(arrived);
        // Bounded by the line above.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint64 amount = uint64(arrived) * SCALE;
        books.active += amount;
        _books[msg.sender] = books;
        emit Staked(msg.sender, amount, books.active);
        _refreshEligibility(msg.sender, books.active);
    }

    function _refreshEligibility(address operator, uint64 active) private {
        bool isListed = _eligibility[operator].length() > 0;
        bool isEnough = active >= minimum;
        if (!_mark(_eligibility[operator], isEnough)) return;

        if (!isListed) _operators.push(operator);
        emit EligibilityChanged(operator, isEnough);
    }

    function _knownOperator(address node) private view returns (address operator) {
        operator = _nodes[node].operator;
        if (operator == address(0)) revert Stake_UnknownNode(node);
    }

    // ------------------------------------------------------------------------------------------------------------ History

    /// @dev Records that a fact holds, or does not, from now on. Returns whether that is news.
    function _mark(Checkpoints.Trace208 storage history, bool holds) private returns (bool) {
        if ((history.latest() != 0) == holds) return false;

        uint48 time = Time.timestamp();
        // What stood there before was read above.
        // slither-disable-next-line unused-return
        history.push(time, holds ? time : 0);
        return true;
    }

    /// @dev Returns since when a fact held at a time; 0 if it did not hold.
    function _since(Checkpoints.Trace208 storage history, uint64 time) private view returns (uint64) {
        // Exact: the history of a second can change while its blocks are made.
        // slither-disable-next-line timestamp
        if (time >= block.timestamp) revert Stake_NotPast(time);
        // The values are times, and so is the argument, as the line above has seen.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(history.upperLookupRecent(uint48(time)));
    }

    /// @dev Returns since when both of two facts hold; 0 if one of them does not.
    function _later(uint64 one, uint64 other) private pure returns (uint64) {
        if (one == 0 || other == 0) return 0;
        return one > other ? one : other;
    }

    function _check(Config memory config) private view {
        uint8 decimals = IERC20Metadata(config.token).decimals();
        if (decimals != 6) revert Stake_BadConfig("decimals", decimals);
        if (config.minimum == 0) revert Stake_BadConfig("minimum", config.minimum);
        if (config.settlementHorizon == 0) revert Stake_BadConfig("settlementHorizon", config.settlementHorizon);
        if (config.caseWindow == 0) revert Stake_BadConfig("caseWindow", config.caseWindow);
        // A stake must not get out before its last receipts can no longer be brought before the Court.
        uint256 reach = uint256(config.settlementHorizon) + config.caseWindow;
        if (config.unbonding < reach || config.unbonding > LONGEST) {
            revert Stake_BadConfig("unbonding", config.unbonding);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title IStake
/// @notice Holds what operators stake, and knows which nodes are theirs and which models they serve.
///
/// Amounts inside are nano-dollars (1e-9 USD). Token units (6 decimals) exist only at the door: a unit comes in as 1000
/// nano-dollars, and goes out rounded down. A parameter in units is called `units`. Times are in seconds since 1970.
///
/// An operator's stake is either active or leaving:
///
///     stake ──► active ──requestUnstake──► leaving ──unstake, after the unbonding──► out
///                  └─────────────slash────────┴──► where the Court sends it
///
/// A node is unknown, active, removed (by its operator, who alone may add it again) or ended (by the Court, for good).
interface IStake {
    enum NodeStatus {
        Unknown,
        Active,
        Removed,
        Ended
    }

    /// @notice What is fixed when the contract is deployed.
    /// @param token The dollar token; 6 decimals, no rebasing.
    /// @param owner Names the Court, once, and can do nothing else.
    /// @param minimum Active stake in nano-dollars from which an operator is eligible.
    /// @param unbonding From the latest request to unstake until the payment, in seconds.
    /// @param settlementHorizon The longest epoch and the settlement lag together, in seconds.
    /// @param caseWindow The time after that in which a case can still be opened, in seconds.
    struct Config {
        address token;
        address owner;
        uint64 minimum;
        uint64 unbonding;
        uint64 settlementHorizon;
        uint64 caseWindow;
    }

    // ------------------------------------------------------------------------------------------------------------ Events

    /// @notice `amount` nano-dollars arrived; the operator's active stake is now `active`.
    event Staked(address indexed operator, uint64 amount, uint64 active);
    event NodeAdded(address indexed operator, address indexed node);
    event NodeRemoved(address indexed operator, address indexed node);
    event NodeEnded(address indexed operator, address indexed node);
    event ModelDeclared(address indexed operator, bytes32 indexed modelId);
    event ModelRetracted(address indexed operator, bytes32 indexed modelId);
    /// @notice `amount` nano-dollars more are leaving, `leaving` in all, and payable from `payableAt` on.
    event UnstakeRequested(address indexed operator, uint64 amount, uint64 leaving, uint64 payableAt);
    /// @notice `units` of the token left, which is `amount` nano-dollars.
    event Unstaked(address indexed operator, uint256 units, uint64 amount);
    /// @notice `amount` nano-dollars of the operator's stake were taken for what its node did in this case.
    event Slashed(address indexed operator, address indexed node, bytes32 indexed caseId, uint64 amount);
    /// @notice `locks` cases are now open against the operator.
    event Locked(address indexed operator, uint32 locks);
    event Unlocked(address indexed operator, uint32 locks);
    /// @notice The active stake reached the minimum, or fell below it.
    event EligibilityChanged(address indexed operator, bool isEligible);
    event CourtSet(address indexed court);

    // ------------------------------------------------------------------------------------------------------------ Errors

    /// @notice A field of the configuration makes no sense.
    error Stake_BadConfig(string field, uint256 value);
    error Stake_ZeroAddress();
    /// @notice No unit of the token arrived.
    error Stake_NothingArrived();
    /// @notice An amount in nano-dollars does not fit the books (uint64).
    error Stake_TooMuch(uint256 amount);
    error Stake_ZeroAmount();
    /// @notice The node's consent was signed by `signer` (0: not a signature), or for somebody or something else.
    error Stake_ConsentForged(address operator, address node, address signer);
    /// @notice The node's key belongs to another operator, for good.
    error Stake_NodeTaken(address node, address operator);
    error Stake_NodeAlreadyActive(address node);
    /// @notice The node's key was ended by the Court, for good.
    error Stake_NodeIsEnded(address node);
    error Stake_UnknownNode(address node);
    error Stake_NotYourNode(address node, address caller);
    error Stake_NodeNotActive(address node, NodeStatus status);
    error Stake_TooManyModels(uint256 given, uint256 most);
    /// @notice More was asked to leave than is active, both in nano-dollars.
    error Stake_BeyondActive(address operator, uint64 amount, uint64 active);
    /// @notice Less than one unit of the token is leaving.
    error Stake_NothingLeaving(address operator, uint64 leaving);
    error Stake_StillUnbonding(address operator, uint64 payableAt);
    /// @notice Cases are open against the operator: nothing leaves before they are closed.
    error Stake_IsLocked(address operator, uint32 locks);
    error Stake_NotLocked(address operator);
    error Stake_NotCourt(address caller, address court);
    error Stake_CourtAlreadySet(address court);
    /// @notice The past is asked for, and this second is not over.
    error Stake_NotPast(uint64 time);

    // --------------------------------------------------------------------------------------------------------- Operators

    /// @notice Takes token units from the caller into its active stake; what arrived counts.
    ///
    /// Requirements:
    /// - The allowance must suffice, and at least one unit must arrive.
    /// - The operator's stake must fit into uint64 nano-dollars.
    function stake(uint256 units) external;

    /// @notice `stake` with the allowance given by a permit. A permit that was used already does no harm.
    ///
    /// Requirements: those of `stake`.
    function stakeWithPermit(uint256 units, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Makes a node the caller's, or takes back one that the caller removed. The key is its operator's for good.
    /// @param nodeSignature `NodeConsent(operator, node)` signed by the node's key in this contract's domain; 65 bytes.
    ///
    /// Requirements:
    /// - The node must be unknown, or removed and the caller's.
    /// - The signature must be the node's, and name the caller.
    function addNode(address node, bytes calldata nodeSignature) external;

    /// @notice Stops a node. What it signed before can still be judged, and its key stays the caller's.
    ///
    /// Requirements:
    /// - The node must be active and the caller's.
    function removeNode(address node) external;

    /// @notice Adds to the models that the caller serves. One that is already declared keeps its date.
    ///
    /// Requirements:
    /// - At most `MOST_MODELS` in one call.
    function declareModels(bytes32[] calldata modelIds) external;

    /// @notice Takes models away that the caller serves. One that is not declared is passed over.
    ///
    /// Requirements: those of `declareModels`.
    function retractModels(bytes32[] calldata modelIds) external;

    /// @notice Moves `amount` nano-dollars of the caller's stake from active to leaving, where it can still be slashed.
    /// What is leaving already merges with it, and the unbonding of all of it starts again.
    ///
    /// Requirements:
    /// - `amount` must be more than 0 and at most the active stake.
    function requestUnstake(uint64 amount) external;

    /// @notice Pays the caller what is leaving, rounded down to units; the rest goes on leaving.
    ///
    /// Requirements:
    /// - At least one unit must be leaving, and its unbonding be over.
    /// - No case may be open against the caller.
    function unstake() external;

    // ------------------------------------------------------------------------------------------------------------- Court

    /// @notice Names the Court, once and for good. Until then nobody can slash.
    ///
    /// Requirements:
    /// - The caller must be the owner, the Court not set yet, and not 0.
    function setCourt(address court_) external;

    /// @notice Takes the smaller of `amount` and all the stake of the node's operator, in whole units rounded down: active
    /// stake first, then what is leaving. Its other nodes go on, unless the active stake falls below the minimum.
    /// @param caseId The case that the node lost.
    /// @param to Receives the tokens.
    /// @return taken What was taken in nano-dollars; 0 if nothing was there.
    ///
    /// Requirements:
    /// - The caller must be the Court, and the node have an operator.
    /// - `to` must not be 0.
    function slash(address node, uint64 amount, bytes32 caseId, address to) external returns (uint64 taken);

    /// @notice Ends a node's key for good; does nothing to one that is ended already, so that no case can get stuck on it.
    ///
    /// Requirements:
    /// - The caller must be the Court, and the node have an operator.
    function endNode(address node) external;

    /// @notice Counts a case opened against the operator: none of its stake leaves while one is open.
    ///
    /// Requirements:
    /// - The caller must be the Court.
    function lock(address operator) external;

    /// @notice Counts a case against the operator closed.
    ///
    /// Requirements:
    /// - The caller must be the Court, and the operator locked.
    function unlock(address operator) external;

    // ------------------------------------------------------------------------------------------------------------- Views

    /// @notice The operator of a node (0: none ever), and the node's status.
    function operatorOf(address node) external view returns (address operator, NodeStatus status);

    /// @notice An operator's stake in nano-dollars, and when what is leaving can be paid at the earliest (0: nothing is).
    function stakeOf(address operator) external view returns (uint64 active, uint64 leaving, uint64 payableAt);

    /// @notice How many cases are open against the operator.
    function locksOf(address operator) external view returns (uint32);

    /// @notice Whether the operator's active stake reaches the minimum. Says nothing of its nodes.
    function isEligible(address operator) external view returns (bool);

    /// @notice Since when the operator is eligible without a break; 0 if it is not.
    function eligibleSince(address operator) external view returns (uint64);

    /// @notice Until when the operator was eligible last; 0 if it is eligible, or never was.
    function eligibleUntil(address operator) external view returns (uint64);

    /// @notice `eligibleSince` as it stood at the end of a second that is over. Nothing done later changes it.
    ///
    /// Requirements:
    /// - `time` must be in the past.
    function eligibleSinceAt(address operator, uint64 time) external view returns (uint64);

    /// @notice Whether the operator is eligible and declares the model.
    function isServing(address operator, bytes32 modelId) external view returns (bool);

    /// @notice Since when the operator has been eligible and declared the model, both without a break; 0 if it does not now.
    function servingSince(address operator, bytes32 modelId) external view returns (uint64);

    /// @notice `servingSince` as it stood at the end of a second that is over. Nothing done later changes it.
    ///
    /// Requirements: those of `eligibleSinceAt`.
    function servingSinceAt(address operator, bytes32 modelId, uint64 time) external view returns (uint64);

    /// @notice How many operators were ever eligible. The list of them only grows, and its order never changes.
    function operatorCount() external view returns (uint256);

    /// @notice The operator at a place of the list, 0-based. Panics beyond the end.
    function operatorAt(uint256 index) external view returns (address);

    /// @notice Active stake in nano-dollars from which an operator is eligible.
    function minimum() external view returns (uint64);

    /// @notice From the latest request to unstake until the payment, in seconds.
    function unbonding() external view returns (uint64);

    /// @notice The dollar token.
    function token() external view returns (address);

    /// @notice Who may slash; 0 until it is set.
    function court() external view returns (address);

    /// @notice The most models in one call.
    function MOST_MODELS() external view returns (uint256);

    /// @notice The EIP-712 domain in which nodes sign their consent.
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}

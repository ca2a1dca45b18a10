// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "../ledger/LedgerTest.sol";

/// @notice Consumers, operators and time around a Ledger, and a record of what they did that does not come from the Ledger.
/// A coordinator of one kind or another is added by the contracts that extend this one.
/// @dev Every action that a fuzzer may take counts itself once it had its effect; an action makes what it needs first.
abstract contract LedgerWorld is LedgerTest {
    /// @dev What the Ledger says of a person, beside what really happened; nano-dollars, and units of the token.
    struct Line {
        ILedger.Account account;
        uint64 claimed;
        uint64 deposited;
        uint64 withdrawn;
        uint64 cashed;
        uint64 promised;
        uint64 right;
        uint256 units;
    }

    uint256 internal constant CONSUMERS = 4;
    uint256 internal constant OPERATORS = 3;

    address[] internal people;
    address[] internal consumers;
    mapping(address person => uint256) internal keys;
    mapping(address person => uint256) internal consentKeys;
    address[] internal operators;
    address internal treasury = makeAddr("treasury");

    // What really happened, in nano-dollars.
    mapping(address person => uint64) internal deposited;
    mapping(address person => uint64) internal withdrawn;
    mapping(address person => uint64) internal cashed;
    /// @dev The right by transactions of its own: grows with them, and falls to what was spent when its owner leaves.
    mapping(address person => uint64) internal granted;
    /// @dev The most that its owner or its consent key ever signed for.
    mapping(address person => uint64) internal consented;
    /// @dev The most that a cheque says which the coordinator signed.
    mapping(address person => uint64) internal promised;
    mapping(address person => uint64) internal promisedIn;
    uint64 public bonded;
    mapping(uint64 epoch => bytes32) public closedRoots;

    mapping(string action => uint256) public calls;
    uint256 public total;

    constructor() {
        setUp();
        for (uint256 i = 0; i < CONSUMERS; ++i) {
            (address person, uint256 key) = makeAddrAndKey(string.concat("consumer ", vm.toString(i)));
            consumers.push(person);
            people.push(person);
            keys[person] = key;
            (address delegate, uint256 delegateKey) = makeAddrAndKey(string.concat("delegate ", vm.toString(i)));
            consentKeys[person] = delegateKey;
            vm.prank(person);
            ledger.addConsentKey(delegate);
        }
        for (uint256 i = 0; i < OPERATORS; ++i) {
            operators.push(makeAddr(string.concat("operator ", vm.toString(i))));
            people.push(operators[i]);
        }
        people.push(treasury);
        give(treasury, 1_000_000 * DOLLAR, type(uint64).max);
        addBond(100 * DOLLAR);
    }

    // --------------------------------------------------------------------------------------------------------- Consumers

    function deposit(uint256 who, uint64 amount, uint64 right) external counted("deposit") {
        address person = consumers[who % CONSUMERS];
        uint64 more = uint64(bound(right, 0, 50 * DOLLAR));
        uint64 recorded = ledger.accountOf(person).authorized;
        give(person, uint64(bound(amount, 1, 1e8)) * 1000, right % 3 == 0 ? recorded + more : more);
    }

    function depositFor(uint256 who, uint64 units) external counted("depositFor") {
        address person = people[who % people.length];
        units = uint64(bound(units, 1, 1e6));
        token.mint(stranger, units);
        vm.startPrank(stranger);
        token.approve(address(ledger), units);
        ledger.depositFor(person, units);
        vm.stopPrank();
        deposited[person] += units * 1000;
    }

    function authorize(uint256 who, uint64 more) external counted("authorize") {
        address person = consumers[who % CONSUMERS];
        uint64 right = ledger.accountOf(person).authorized + uint64(bound(more, 0, 20 * DOLLAR));
        vm.prank(person);
        ledger.authorize(right);
        granted[person] = right;
    }

    function requestWithdrawal(uint256 who, uint64 amount) external counted("requestWithdrawal") {
        vm.prank(consumers[who % CONSUMERS]);
        ledger.requestWithdrawal(amount % 2 == 0 ? uint64(bound(amount, 0, 100 * DOLLAR)) : amount);
    }

    function withdraw(uint256 who) external counted("withdraw") {
        address person = consumers[who % CONSUMERS];
        (uint64 amount, uint64 payableAt) = ledger.exitOf(person);
        if (amount == 0) {
            payableAt = uint64(block.timestamp) + THAW;
            vm.prank(person);
            ledger.requestWithdrawal(who % 2 == 0 ? type(uint64).max : DOLLAR);
        }
        if (block.timestamp < payableAt) vm.warp(payableAt);
        leave(person);
    }

    // --------------------------------------------------------------------------------------------------------- Providers

    function claim(uint256 who) external counted("claim") {
        address person = people[who % people.length];
        if (owedTo(person) >= 1000) takeEarnings(person);
    }

    function cash(uint256 who) external {
        address person = operators[who % OPERATORS];
        if (ledger.accountOf(person).earned >= promised[person]) owe(person);
        if (ledger.accountOf(person).earned >= promised[person]) return;
        uint64 epoch = promisedIn[person];
        uint256 overdueAfter = ledger.epochEnd(epoch) + LAG;
        if (block.timestamp <= overdueAfter) vm.warp(overdueAfter + 1);
        if (ledger.bond() < DOLLAR) addBond(100 * DOLLAR);
        cashCheque(person, epoch, promised[person]);
        if (ledger.accountOf(person).earned == promised[person]) refuseCheque(person, epoch, promised[person]);
        count("cash");
    }

    function addToBond(uint64 units) external counted("addToBond") {
        addBond(uint64(bound(units, 1, 1e7)) * 1000);
    }

    // -------------------------------------------------------------------------------------------------------------- Time

    function wait(uint32 time) external counted("wait") {
        skip(bound(time, 1, 3 * HOUR));
    }

    // ------------------------------------------------------------------------------------------------ What happens at last

    /// @notice Everybody leaves; `interfere` is what the coordinator does about it during the thaw.
    function everybodyLeaves() external {
        uint64[] memory safe = new uint64[](CONSUMERS);
        for (uint256 i = 0; i < CONSUMERS; ++i) {
            safe[i] = unauthorized(consumers[i]);
            vm.prank(consumers[i]);
            ledger.requestWithdrawal(type(uint64).max);
        }
        interfere();
        skip(THAW);
        for (uint256 i = 0; i < CONSUMERS; ++i) {
            uint64 before = withdrawn[consumers[i]];
            leave(consumers[i]);
            assertGe(withdrawn[consumers[i]] - before, safe[i] / 1000 * 1000, "unauthorized money did not leave");
            assertLt(ledger.accountOf(consumers[i]).balance, 1000, "a balance stayed behind");
        }
        for (uint256 i = 0; i < people.length; ++i) {
            if (owedTo(people[i]) >= 1000) takeEarnings(people[i]);
        }
    }

    function interfere() internal virtual;

    /// @dev Makes the coordinator owe something to an operator, with a cheque for it, if there still is a coordinator.
    function owe(address person) internal virtual;

    // ------------------------------------------------------------------------------------------------------------ Record

    /// @notice Returns a line for everybody: the consumers, the operators, the treasury.
    function lines() external view returns (Line[] memory all) {
        all = new Line[](people.length);
        for (uint256 i = 0; i < all.length; ++i) {
            address person = people[i];
            all[i] = Line({
                account: ledger.accountOf(person),
                claimed: ledger.claimedOf(person),
                deposited: deposited[person],
                withdrawn: withdrawn[person],
                cashed: cashed[person],
                promised: promised[person],
                right: rightOf(person),
                units: token.balanceOf(person)
            });
        }
    }

    function personAt(uint256 index) external view returns (address) {
        return people[index];
    }

    function theLedger() external view returns (ILedger) {
        return ledger;
    }

    function tokensIn() external view returns (uint256) {
        return token.balanceOf(address(ledger));
    }

    /// @notice Returns how far the record allows a person to be charged.
    function rightOf(address person) public view returns (uint64) {
        return granted[person] > consented[person] ? granted[person] : consented[person];
    }

    /// @notice Returns the part of a balance that nobody has a right to but its owner.
    function unauthorized(address person) public view returns (uint64) {
        ILedger.Account memory account = ledger.accountOf(person);
        uint64 open = rightOf(person) - account.spent;
        return open >= account.balance ? 0 : account.balance - open;
    }

    /// @notice Returns a hash of all that a settlement could change.
    function fingerprint() internal view returns (bytes32 print) {
        (uint64 epoch, uint32 chunks, uint64 pool) = ledger.openEpoch();
        print = keccak256(abi.encode(epoch, chunks, pool, ledger.bond(), ledger.auditSecretHash(), this.tokensIn()));
        for (uint256 i = 0; i < people.length; ++i) {
            print = keccak256(abi.encode(print, ledger.accountOf(people[i]), ledger.claimedOf(people[i])));
        }
    }

    function actions() public view virtual returns (string[] memory);

    modifier counted(string memory action) {
        _;
        count(action);
    }

    function count(string memory action) internal {
        ++calls[action];
        ++total;
    }

    // ------------------------------------------------------------------------------------------------------------- Steps

    function give(address person, uint64 amount, uint64 right_) internal {
        fund(person, amount, right_);
        deposited[person] += amount;
        if (right_ > granted[person]) granted[person] = right_;
    }

    function addBond(uint64 amount) internal {
        fundBond(amount);
        bonded += amount;
    }

    function leave(address person) internal {
        uint256 before = token.balanceOf(person);
        vm.prank(person);
        ledger.withdraw();
        withdrawn[person] += uint64(token.balanceOf(person) - before) * 1000;
        ILedger.Account memory account = ledger.accountOf(person);
        if (account.balance < 1000) {
            assertEq(account.authorized, account.spent, "leaving with everything did not take the right back");
            granted[person] = account.spent;
        }
    }

    function takeEarnings(address person) internal {
        uint64 owed = owedTo(person);
        uint256 before = token.balanceOf(person);
        ledger.claim(person);
        assertEq(token.balanceOf(person) - before, owed / 1000, "a claim paid something else than was credited");
    }

    function owedTo(address person) internal view returns (uint64) {
        return ledger.accountOf(person).earned - ledger.claimedOf(person);
    }

    function consent(address person, uint64 spent, bool byDelegate) internal returns (ILedger.ConsentSignature memory) {
        if (spent > consented[person]) consented[person] = spent;
        return signConsent(byDelegate ? consentKeys[person] : keys[person], person, spent);
    }

    /// @dev The coordinator signs a cheque in the epoch that is running.
    function acknowledge(address person, uint64 earned) internal {
        promised[person] = earned;
        promisedIn[person] = uint64(block.timestamp - GENESIS) / HOUR;
    }

    function cashCheque(address person, uint64 epoch, uint64 earned) internal {
        bytes memory cheque = signCheque(coordinatorKey, person, epoch, earned);
        uint64 before = ledger.bond();
        ledger.cash(person, epoch, earned, cheque);
        cashed[person] += before - ledger.bond();
    }

    function refuseCheque(address person, uint64 epoch, uint64 earned) internal {
        bytes memory cheque = signCheque(coordinatorKey, person, epoch, earned);
        bytes32 before = fingerprint();
        vm.expectPartialRevert(ILedger.Ledger_NothingToCash.selector);
        ledger.cash(person, epoch, earned, cheque);
        assertEq(fingerprint(), before, "a cheque was paid twice");
    }
}

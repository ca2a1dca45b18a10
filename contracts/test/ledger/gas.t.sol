// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";

/// @notice What each call costs its sender, everything included: each call is a transaction of its own (`isolate`), so that
/// the base fee, the calldata and cold storage count. The figures are written to `snapshots/Ledger.json`; its diff is read.
/// @dev A batch has 200 rows, with addresses and amounts as long as real ones. The limits are what the design promises.
/// forge-config: default.isolate = true
contract Ledger_Gas_Test is LedgerTest {
    uint256 private constant ROWS = 200;
    uint64 private constant SPENT = 1_234_567_890_123;
    string private constant GROUP = "Ledger";

    function setUp() public override {
        super.setUp();
        vm.warp(GENESIS + 10 * HOUR);
        fund(consumer, 1_000_000 * DOLLAR, 1_000_000 * DOLLAR);
        for (uint256 row = 0; row < ROWS; ++row) {
            fund(account(row), 100_000 * DOLLAR, 50_000 * DOLLAR);
        }
        settle(0, 0, charges(SPENT), none());
    }

    function test_AChargeInABatch() external {
        settle(0, 1, charges(2 * SPENT), none());
        assertRow("charge, steady, per row of 200", 7000);
    }

    function test_APayoutInABatch() external {
        settle(0, 1, none(), payouts("operator", SPENT / 10));
        assertRow("payout, first, per row of 200", 24_000);
        settle(0, 2, none(), payouts("operator", SPENT / 5));
        assertRow("payout, steady, per row of 200", 7000);
    }

    function test_AChargeWithTheOwnersConsentInABatch() external {
        settleWithConsents(false);
        assertRow("charge with the owner's consent, per row of 200", 13_500);
    }

    /// @dev Above an owner's consent by the cold word (2100 gas) that says whose key it is.
    function test_AChargeWithAConsentOfAKeyInABatch() external {
        settleWithConsents(true);
        assertRow("charge with a consent key's consent, per row of 200", 15_000);
    }

    /// @dev The first epoch that closes costs as much as any other: its root is a new word each time.
    function test_ClosingAnEpoch() external {
        uint64 pool = uint64(ROWS) * SPENT;
        settle(0, 1, none(), one(payout(operator, pool)));
        close(0, 2, none(), none());
        uint256 gas = vm.snapshotGasLastCall(GROUP, "close an epoch, apart from rows");
        assertLe(gas, 100_000);
    }

    function test_SettlingAndClosingAtOnce() external {
        settle(0, 1, none(), one(payout(operator, uint64(ROWS) * SPENT)));
        close(0, 2, none(), none());
        bytes32[] memory rows = one(charge(consumer, 1000));
        close(1, 0, rows, one(payout(operator, uint64(ROWS) * SPENT + 1000)));
        vm.snapshotGasLastCall(GROUP, "settle one charge and one payout and close");
    }

    function test_Deposit() external {
        token.mint(consumer, 2 * UNITS);
        vm.prank(consumer);
        token.approve(address(ledger), type(uint64).max);
        vm.prank(consumer);
        ledger.deposit(UNITS, 0);
        assertLe(vm.snapshotGasLastCall(GROUP, "deposit, steady"), 70_000);
    }

    function test_Withdraw() external {
        token.mint(consumer, 1);
        vm.prank(consumer);
        ledger.requestWithdrawal(DOLLAR);
        vm.snapshotGasLastCall(GROUP, "requestWithdrawal");
        skip(THAW);
        vm.prank(consumer);
        ledger.withdraw();
        assertLe(vm.snapshotGasLastCall(GROUP, "withdraw"), 60_000);
    }

    function test_Claim() external {
        settle(0, 1, none(), one(payout(operator, SPENT)));
        token.mint(operator, 1);
        ledger.claim(operator);
        vm.snapshotGasLastCall(GROUP, "claim, first");
        settle(0, 2, none(), one(payout(operator, 2 * SPENT)));
        ledger.claim(operator);
        assertLe(vm.snapshotGasLastCall(GROUP, "claim, steady"), 60_000);
    }

    function test_Cash() external {
        fundBond(1000 * DOLLAR);
        vm.warp(ledger.epochEnd(0) + LAG + 1);
        bytes memory cheque = signCheque(coordinatorKey, operator, 0, SPENT);
        ledger.cash(operator, 0, 100 * DOLLAR, signCheque(coordinatorKey, operator, 0, 100 * DOLLAR));
        ledger.cash(operator, 0, SPENT, cheque);
        vm.snapshotGasLastCall(GROUP, "cash, steady");
    }

    // --------------------------------------------------------------------------------------------------------- Builders

    function account(uint256 row) private pure returns (address) {
        return vm.addr(accountKey(row));
    }

    function accountKey(uint256 row) private pure returns (uint256) {
        return uint256(keccak256(abi.encode("account", row)));
    }

    function charges(uint64 spent) private pure returns (bytes32[] memory rows) {
        rows = new bytes32[](ROWS);
        for (uint256 row = 0; row < ROWS; ++row) {
            rows[row] = charge(account(row), spent);
        }
    }

    function payouts(string memory name, uint64 earned) private pure returns (bytes32[] memory rows) {
        rows = new bytes32[](ROWS);
        for (uint256 row = 0; row < ROWS; ++row) {
            rows[row] = payout(address(uint160(uint256(keccak256(abi.encode(name, row))))), earned);
        }
    }

    function settleWithConsents(bool byKey) private {
        uint64 spent = 60_000 * DOLLAR;
        bytes32[] memory rows = new bytes32[](ROWS);
        ILedger.ConsentSignature[] memory consents = new ILedger.ConsentSignature[](ROWS);
        for (uint256 row = 0; row < ROWS; ++row) {
            uint256 key = byKey ? uint256(keccak256(abi.encode("consent key", row))) : accountKey(row);
            if (byKey) {
                vm.prank(account(row));
                ledger.addConsentKey(vm.addr(key));
            }
            rows[row] = chargeWithConsent(account(row), spent);
            consents[row] = signConsent(key, account(row), spent);
        }
        vm.prank(coordinator);
        ledger.settle(0, 1, rows, consents, none());
    }

    function assertRow(string memory name, uint256 limit) private {
        uint256 perRow = vm.lastCallGas().gasTotalUsed / ROWS;
        vm.snapshotValue(GROUP, name, perRow);
        assertLe(perRow, limit, name);
    }
}

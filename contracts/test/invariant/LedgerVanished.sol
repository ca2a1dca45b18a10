// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {LedgerHonest} from "./LedgerHonest.sol";

/// @notice A coordinator that works honestly for a while and is then never heard of again, maybe in the middle of an epoch.
/// Its cheques are all that its operators have.
contract LedgerVanished is LedgerHonest {
    uint256 private constant LIFE = 160;

    function isGone() public view override returns (bool) {
        return total >= LIFE;
    }

    /// @notice Every operator cashes its last cheque; the bond, which covers what was acknowledged, pays all of it.
    function everybodyCashes() external {
        for (uint256 i = 0; i < OPERATORS; ++i) {
            address person = operators[i];
            uint64 earned = ledger.accountOf(person).earned;
            if (earned >= promised[person]) continue;
            if (ledger.bond() < promised[person] - earned) addBond((promised[person] / 1000 + 1) * 1000);
            uint256 overdueAfter = ledger.epochEnd(promisedIn[person]) + LAG;
            if (block.timestamp <= overdueAfter) vm.warp(overdueAfter + 1);
            cashCheque(person, promisedIn[person], promised[person]);
            assertEq(ledger.accountOf(person).earned, promised[person], "a cheque was not paid");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerDishonest} from "./LedgerDishonest.sol";
import {LedgerHonest} from "./LedgerHonest.sol";
import {LedgerVanished} from "./LedgerVanished.sol";
import {LedgerWorld} from "./LedgerWorld.sol";

/// @notice The laws of `Ledger.md`, in its order; one campaign for each kind of coordinator.
/// @dev A run is 256 calls long so that an action which is left out is a defect and not bad luck.
abstract contract LedgerInvariants is Test {
    /// @dev Actions that had an effect in any sequence of the length below; what is shorter was cut.
    uint256 internal constant WHOLE = 160;

    LedgerWorld internal world;
    ILedger internal ledger;

    function setUp() public virtual {
        world = build();
        ledger = world.theLedger();
        targetContract(address(world));
        excludeSelector(FuzzSelector(address(world), hidden()));
    }

    function build() internal virtual returns (LedgerWorld);

    /// @dev What the world offers to the tests and not to the fuzzer.
    function hidden() internal pure virtual returns (bytes4[] memory selectors) {
        selectors = new bytes4[](2);
        selectors[0] = LedgerWorld.everybodyLeaves.selector;
        selectors[1] = bytes4(keccak256("setUp()"));
    }

    function checkLaws() internal view returns (LedgerWorld.Line[] memory lines) {
        lines = world.lines();
        tokensCoverWhatIsOwedToTheUnit(lines);
        whatIsPaidOutWasChargedOrCameFromTheBond(lines);
        for (uint256 i = 0; i < lines.length; ++i) {
            everyDepositIsInTheBalanceSpentOrWithdrawn(lines[i]);
            nobodyIsChargedBeyondBalanceOrRight(lines[i]);
            noChequeIsPaidTwice(lines[i]);
        }
        closedEpochsDoNotChange();
    }

    /// @dev Forge first replays a sequence that failed before, cut down to a few calls. Only whole ones must have it all.
    function checkThatEverythingHappened() internal view {
        if (world.total() < WHOLE) return;
        string[] memory actions = world.actions();
        for (uint256 i = 0; i < actions.length; ++i) {
            assertGt(world.calls(actions[i]), 0, string.concat("never happened: ", actions[i]));
        }
    }

    function checkTheEnd() internal {
        checkThatEverythingHappened();
        world.everybodyLeaves();
        LedgerWorld.Line[] memory lines = checkLaws();
        for (uint256 i = 0; i < lines.length; ++i) {
            assertEq(
                lines[i].units * 1000, lines[i].withdrawn + lines[i].claimed, "somebody holds what did not leave for it"
            );
        }
    }

    // -------------------------------------------------------------------------------------------------------------- Laws

    function tokensCoverWhatIsOwedToTheUnit(LedgerWorld.Line[] memory lines) private view {
        (,, uint64 pool) = ledger.openEpoch();
        uint256 owed = uint256(pool) + ledger.bond();
        for (uint256 i = 0; i < lines.length; ++i) {
            owed += lines[i].account.balance;
            owed += lines[i].account.earned - lines[i].claimed;
        }
        assertEq(world.tokensIn() * 1000, owed, "the tokens are not what is owed");
    }

    function everyDepositIsInTheBalanceSpentOrWithdrawn(LedgerWorld.Line memory line) private pure {
        uint256 found = uint256(line.account.balance) + line.account.spent + line.withdrawn;
        assertEq(line.deposited, found, "a deposit went somewhere else");
    }

    function nobodyIsChargedBeyondBalanceOrRight(LedgerWorld.Line memory line) private pure {
        assertLe(line.account.spent, line.right, "charged beyond the right");
        assertLe(line.account.spent, line.deposited, "charged beyond the deposits");
        assertLe(line.account.spent, line.account.authorized, "the right is behind what was spent");
        assertLe(line.account.authorized, line.right, "a right that nobody gave");
    }

    function whatIsPaidOutWasChargedOrCameFromTheBond(LedgerWorld.Line[] memory lines) private view {
        (,, uint64 pool) = ledger.openEpoch();
        uint256 spent = 0;
        uint256 earned = 0;
        uint256 cashed = 0;
        for (uint256 i = 0; i < lines.length; ++i) {
            spent += lines[i].account.spent;
            earned += lines[i].account.earned;
            cashed += lines[i].cashed;
            assertLe(lines[i].claimed, lines[i].account.earned, "claimed more than was credited");
        }
        assertEq(earned + pool, spent + cashed, "paid out what was not charged");
        assertEq(ledger.bond() + cashed, world.bonded(), "the bond went somewhere else");
    }

    function noChequeIsPaidTwice(LedgerWorld.Line memory line) private pure {
        assertLe(line.cashed, line.promised, "more was cashed than was promised");
    }

    function closedEpochsDoNotChange() private view {
        uint64 next = ledger.nextEpoch();
        uint64 first = next > 8 ? next - 8 : 0;
        for (uint64 epoch = first; epoch < next + 2; ++epoch) {
            (bool closed, bytes32 root) = ledger.epochOf(epoch);
            assertEq(closed, epoch < next);
            assertEq(root, world.closedRoots(epoch), "a root changed");
        }
    }
}

/// forge-config: default.invariant.depth = 256
contract Ledger_WithAnHonestCoordinator_Invariants is LedgerInvariants {
    function build() internal override returns (LedgerWorld) {
        return new LedgerHonest();
    }

    function invariant_TheLawsHoldAndNobodyPaysForMoreThanWasUsed() external view {
        LedgerWorld.Line[] memory lines = checkLaws();
        LedgerHonest honest = LedgerHonest(address(world));
        for (uint256 i = 0; i < lines.length; ++i) {
            address person = world.personAt(i);
            if (i < 4) assertLe(lines[i].account.spent, honest.used(person), "charged for more than was used");
            else if (i < 7) assertLe(lines[i].account.earned, honest.worked(person), "paid for more than was done");
        }
    }

    function afterInvariant() external {
        checkTheEnd();
    }
}

/// forge-config: default.invariant.depth = 256
contract Ledger_WithADishonestCoordinator_Invariants is LedgerInvariants {
    function build() internal override returns (LedgerWorld) {
        return new LedgerDishonest();
    }

    function invariant_TheLawsHold() external view {
        checkLaws();
    }

    function afterInvariant() external {
        checkTheEnd();
    }
}

/// forge-config: default.invariant.depth = 256
contract Ledger_WithAVanishedCoordinator_Invariants is LedgerInvariants {
    function build() internal override returns (LedgerWorld) {
        return new LedgerVanished();
    }

    function hidden() internal pure override returns (bytes4[] memory selectors) {
        selectors = new bytes4[](3);
        selectors[0] = LedgerWorld.everybodyLeaves.selector;
        selectors[1] = bytes4(keccak256("setUp()"));
        selectors[2] = LedgerVanished.everybodyCashes.selector;
    }

    function invariant_TheLawsHold() external view {
        checkLaws();
    }

    function afterInvariant() external {
        assertEq(LedgerVanished(address(world)).isGone(), world.total() >= WHOLE, "the coordinator did not vanish");
        LedgerVanished(address(world)).everybodyCashes();
        checkTheEnd();
    }
}

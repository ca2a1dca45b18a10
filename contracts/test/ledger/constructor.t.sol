// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {Ledger} from "../../src/Ledger.sol";
import {ILedger} from "../../src/interfaces/ILedger.sol";
import {LedgerTest} from "./LedgerTest.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

contract Ledger_Constructor_Test is LedgerTest {
    function test_EveryNumberIsTheOneThatWasGiven() external view {
        assertEq(ledger.token(), address(token));
        assertEq(ledger.owner(), owner);
        assertEq(ledger.coordinator(), coordinator);
        assertEq(ledger.thaw(), THAW);
        assertEq(ledger.genesis(), GENESIS);
        assertEq(ledger.epochLength(), HOUR);
        assertEq(ledger.settlementLag(), LAG);
        assertEq(ledger.bondRelease(), BOND_RELEASE);
        assertEq(ledger.auditSecretHash(), secretHash(SECRET));
        assertEq(ledger.signsBefore(coordinator), type(uint64).max);
        assertEq(ledger.nextEpoch(), 0);
        assertEq(ledger.epochEnd(0), GENESIS + HOUR);
        assertEq(ledger.epochEnd(type(uint64).max), GENESIS + (uint256(1) << 64) * HOUR);
    }

    function test_TheDomainIsTallystickVersionOne() external view {
        bytes32 expected = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tallystick"),
                keccak256("1"),
                block.chainid,
                address(ledger)
            )
        );
        assertEq(ledger.DOMAIN_SEPARATOR(), expected);
    }

    function test_RevertWhen_TheOwnerIsZero() external {
        ILedger.Config memory config_ = config(address(token));
        config_.owner = address(0);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0)));
        new Ledger(config_);
    }

    function test_RevertWhen_TheCoordinatorIsZero() external {
        ILedger.Config memory config_ = config(address(token));
        config_.coordinator = address(0);
        vm.expectRevert(ILedger.Ledger_ZeroAddress.selector);
        new Ledger(config_);
    }

    function test_RevertWhen_NoAuditSecretIsCommitted() external {
        ILedger.Config memory config_ = config(address(token));
        config_.firstAuditSecretHash = 0;
        vm.expectRevert(ILedger.Ledger_NoNextAuditSecret.selector);
        new Ledger(config_);
    }

    function test_RevertWhen_TheTokenHasOtherDecimals() external {
        ERC20 ether_ = new EighteenDecimals();
        expectBad("decimals", 18, config(address(ether_)));
    }

    function test_RevertWhen_TheGenesisIsZeroOrTooFar() external {
        ILedger.Config memory config_ = config(address(token));
        config_.genesis = 0;
        expectBad("genesis", 0, config_);
        config_.genesis = GENESIS * 1000;
        expectBad("genesis", GENESIS * 1000, config_);
        config_.genesis = uint64(block.timestamp + 365 days);
        new Ledger(config_);
    }

    function test_RevertWhen_AnEpochOrItsLagTakesNoTime() external {
        ILedger.Config memory config_ = config(address(token));
        config_.epochLength = 0;
        expectBad("epochLength", 0, config_);
        config_ = config(address(token));
        config_.settlementLag = 0;
        expectBad("settlementLag", 0, config_);
    }

    function testFuzz_TheThawOutlastsAnEpochAndItsLag(uint64 thaw) external {
        ILedger.Config memory config_ = config(address(token));
        config_.thaw = thaw;
        if (thaw <= HOUR + LAG || thaw > 365 days) expectBad("thaw", thaw, config_);
        else assertEq(new Ledger(config_).thaw(), thaw);
    }

    function testFuzz_TheBondOutlastsAnEpochAndItsLag(uint64 bondRelease) external {
        ILedger.Config memory config_ = config(address(token));
        config_.bondRelease = bondRelease;
        if (bondRelease <= HOUR + LAG || bondRelease > 365 days) expectBad("bondRelease", bondRelease, config_);
        else assertEq(new Ledger(config_).bondRelease(), bondRelease);
    }

    function test_TheEdgesOfTheThawAndTheRelease() external {
        ILedger.Config memory config_ = config(address(token));
        config_.thaw = HOUR + LAG;
        expectBad("thaw", HOUR + LAG, config_);
        config_.thaw = HOUR + LAG + 1;
        config_.bondRelease = HOUR + LAG;
        expectBad("bondRelease", HOUR + LAG, config_);
        config_.bondRelease = HOUR + LAG + 1;
        new Ledger(config_);
        config_.thaw = 365 days;
        config_.bondRelease = 365 days;
        new Ledger(config_);
    }

    function expectBad(string memory field, uint256 value, ILedger.Config memory config_) private {
        vm.expectRevert(abi.encodeWithSelector(ILedger.Ledger_BadConfig.selector, field, value));
        new Ledger(config_);
    }
}

contract EighteenDecimals is ERC20("Other", "OTH") {}

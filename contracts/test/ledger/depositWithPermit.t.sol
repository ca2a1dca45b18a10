// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {LedgerTest} from "./LedgerTest.sol";

contract Ledger_DepositWithPermit_Test is LedgerTest {
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    uint256 private constant AMOUNT = 5 * UNITS;

    function setUp() public override {
        super.setUp();
        token.mint(consumer, AMOUNT);
    }

    function test_APermitStandsInForTheAllowance() external {
        (uint8 v, bytes32 r, bytes32 s) = signPermit(AMOUNT);
        vm.prank(consumer);
        ledger.depositWithPermit(AMOUNT, DOLLAR, block.timestamp, v, r, s);
        assertAccount(consumer, 5 * DOLLAR, 0, DOLLAR, 0);
        assertEq(token.allowance(consumer, address(ledger)), 0);
    }

    function test_APermitThatSomebodySentFirstDoesNotMatter() external {
        (uint8 v, bytes32 r, bytes32 s) = signPermit(AMOUNT);
        vm.prank(stranger);
        token.permit(consumer, address(ledger), AMOUNT, block.timestamp, v, r, s);
        vm.prank(consumer);
        ledger.depositWithPermit(AMOUNT, 0, block.timestamp, v, r, s);
        assertAccount(consumer, 5 * DOLLAR, 0, 0, 0);
    }

    function test_RevertWhen_ThePermitIsForLessThanTheDeposit() external {
        (uint8 v, bytes32 r, bytes32 s) = signPermit(AMOUNT - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(ledger), 0, AMOUNT)
        );
        vm.prank(consumer);
        ledger.depositWithPermit(AMOUNT, 0, block.timestamp, v, r, s);
    }

    function test_RevertWhen_ThePermitIsSomebodyElses() external {
        (uint8 v, bytes32 r, bytes32 s) = signPermit(AMOUNT);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(ledger), 0, AMOUNT)
        );
        vm.prank(stranger);
        ledger.depositWithPermit(AMOUNT, 0, block.timestamp, v, r, s);
    }

    function signPermit(uint256 value) private view returns (uint8, bytes32, bytes32) {
        bytes32 permit =
            keccak256(abi.encode(PERMIT, consumer, address(ledger), value, token.nonces(consumer), block.timestamp));
        return vm.sign(consumerKey, MessageHashUtils.toTypedDataHash(token.DOMAIN_SEPARATOR(), permit));
    }
}

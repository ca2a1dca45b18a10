// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {StakeTest} from "./StakeTest.sol";

contract Stake_StakeWithPermit_Test is StakeTest {
    uint256 private constant UNITS = 123_456;
    bytes32 private constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    function test_APermitIsEnoughOfAnAllowance() external {
        token.mint(operator, UNITS);
        (uint8 v, bytes32 r, bytes32 s) = permit(UNITS);
        vm.prank(operator);
        registry.stakeWithPermit(UNITS, START, v, r, s);
        assertStake(operator, uint64(UNITS) * 1000, 0, 0);
    }

    function test_APermitThatSomebodyElseSentFirstDoesNoHarm() external {
        token.mint(operator, UNITS);
        (uint8 v, bytes32 r, bytes32 s) = permit(UNITS);
        vm.prank(rival);
        token.permit(operator, address(registry), UNITS, START, v, r, s);
        vm.prank(operator);
        registry.stakeWithPermit(UNITS, START, v, r, s);
        assertStake(operator, uint64(UNITS) * 1000, 0, 0);
    }

    function test_RevertWhen_ThePermitIsForLess() external {
        token.mint(operator, UNITS);
        (uint8 v, bytes32 r, bytes32 s) = permit(UNITS - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(registry), 0, UNITS)
        );
        vm.prank(operator);
        registry.stakeWithPermit(UNITS, START, v, r, s);
    }

    function permit(uint256 units) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 structHash = keccak256(
            abi.encode(PERMIT_TYPEHASH, operator, address(registry), units, token.nonces(operator), uint256(START))
        );
        bytes32 permitDigest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        return vm.sign(operatorKey, permitDigest);
    }
}

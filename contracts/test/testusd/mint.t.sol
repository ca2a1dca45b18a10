// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {TestUSD} from "../../src/TestUSD.sol";

contract TestUSD_Mint_Test is Test {
    TestUSD private token = new TestUSD();

    function testFuzz_AnybodyMayMintForAnybody(address caller, address to, uint256 units) external {
        vm.assume(to != address(0));
        vm.prank(caller);
        token.mint(to, units);
        assertEq(token.balanceOf(to), units);
        assertEq(token.totalSupply(), units);
    }

    function test_ItIsADollarOfSixDecimals() external view {
        assertEq(token.name(), "Test USD");
        assertEq(token.symbol(), "TUSD");
        assertEq(token.decimals(), 6);
    }

    function testFuzz_APermitGivesAnAllowance(uint256 key, address spender, uint256 units, uint64 deadline) external {
        key = boundPrivateKey(key);
        vm.assume(spender != address(0));
        deadline = uint64(bound(deadline, block.timestamp, type(uint64).max));
        bytes32 permit = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(abi.encode(permit, vm.addr(key), spender, units, 0, uint256(deadline)));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);

        token.permit(vm.addr(key), spender, units, deadline, v, r, s);

        assertEq(token.allowance(vm.addr(key), spender), units);
        assertEq(token.nonces(vm.addr(key)), 1);
    }
}

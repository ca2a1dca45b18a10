// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Stake} from "../../src/Stake.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {StakeTest} from "./StakeTest.sol";

/// @notice The consents that the agents sign, against what the Stake takes.
contract Stake_Vectors_Test is StakeTest {
    string private json;

    function setUp() public override {
        super.setUp();
        json = vm.readFile("tallystick/protocol/vectors/eip712.json");
        vm.chainId(vm.parseJsonUint(json, ".chainId"));
        address at = vm.parseJsonAddress(json, ".stake");
        deployCodeTo("Stake.sol:Stake", abi.encode(config(address(token))), at);
        registry = Stake(at);
    }

    function test_TheDomainIsTheVectors() external view {
        assertEq(registry.DOMAIN_SEPARATOR(), vm.parseJsonBytes32(json, ".stakeSeparator"));
    }

    function test_EveryConsentIsTaken() external {
        uint256 i = 0;
        for (; vm.keyExistsJson(json, path(i)); ++i) {
            address operator_ = vm.parseJsonAddress(json, string.concat(path(i), ".operator"));
            address node_ = vm.parseJsonAddress(json, string.concat(path(i), ".node"));
            bytes memory signature = vm.parseJsonBytes(json, string.concat(path(i), ".signature"));
            vm.prank(operator_);
            registry.addNode(node_, signature);
            assertNode(node_, operator_, IStake.NodeStatus.Active);
        }
        assertGt(i, 0);
    }

    function path(uint256 index) private pure returns (string memory) {
        return string.concat(".nodeConsents[", vm.toString(index), "]");
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Script} from "forge-std/Script.sol";
import {console2} from "forge-std/console2.sol";

import {Ledger} from "../src/Ledger.sol";
import {Stake} from "../src/Stake.sol";
import {TestUSD} from "../src/TestUSD.sol";
import {ILedger} from "../src/interfaces/ILedger.sol";
import {IStake} from "../src/interfaces/IStake.sol";

/// @title Deploy
/// @notice Deploys the Ledger and the Stake for one dollar, from the environment:
///
///     OWNER=0x… COORDINATOR=0x… AUDIT_SECRET_HASH=0x… TOKEN=0x… \
///       forge script contracts/script/Deploy.s.sol --rpc-url … --broadcast --ledger
///
/// Without TOKEN it deploys a TestUSD, on local networks only. Times are seconds and amounts nano-dollars; each has a
/// default for a public network.
contract Deploy is Script {
    /// @notice A dollar that anybody can mint was about to be used where money is real.
    error Deploy_TokenNeeded(uint256 chainId);

    uint256 private constant ANVIL = 31_337;

    function run() external returns (address token, Ledger ledger, Stake stake) {
        token = vm.envOr("TOKEN", address(0));
        if (token == address(0) && block.chainid != ANVIL) revert Deploy_TokenNeeded(block.chainid);

        vm.startBroadcast();
        if (token == address(0)) token = address(new TestUSD());
        ledger = new Ledger(ledgerConfig(token));
        stake = new Stake(stakeConfig(token));
        vm.stopBroadcast();

        console2.log("token ", token);
        console2.log("ledger", address(ledger));
        console2.log("stake ", address(stake));
    }

    function ledgerConfig(address token) public view returns (ILedger.Config memory) {
        return ILedger.Config({
            token: token,
            owner: vm.envAddress("OWNER"),
            coordinator: vm.envAddress("COORDINATOR"),
            thaw: number("THAW", 3 days),
            genesis: number("GENESIS", block.timestamp),
            epochLength: number("EPOCH_LENGTH", 1 days),
            settlementLag: number("SETTLEMENT_LAG", 12 hours),
            bondRelease: number("BOND_RELEASE", 14 days),
            firstAuditSecretHash: vm.envBytes32("AUDIT_SECRET_HASH")
        });
    }

    function stakeConfig(address token) public view returns (IStake.Config memory) {
        return IStake.Config({
            token: token,
            owner: vm.envAddress("OWNER"),
            minimum: number("MINIMUM_STAKE", 100e9),
            unbonding: number("UNBONDING", 14 days),
            settlementHorizon: number("EPOCH_LENGTH", 1 days) + number("SETTLEMENT_LAG", 12 hours),
            caseWindow: number("CASE_WINDOW", 7 days)
        });
    }

    function number(string memory name, uint256 otherwise) private view returns (uint64) {
        uint256 value = vm.envOr(name, otherwise);
        require(value <= type(uint64).max, name);
        // Bounded by the line above.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(value);
    }
}

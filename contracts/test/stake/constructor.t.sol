// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {Stake} from "../../src/Stake.sol";
import {IStake} from "../../src/interfaces/IStake.sol";
import {WeiToken} from "../mocks/WeiToken.sol";
import {StakeTest} from "./StakeTest.sol";

contract Stake_Constructor_Test is StakeTest {
    function test_TheConfigurationIsWhatItWasDeployedWith() external view {
        assertEq(registry.token(), address(token));
        assertEq(registry.owner(), owner);
        assertEq(registry.minimum(), MINIMUM);
        assertEq(registry.unbonding(), UNBONDING);
        assertEq(registry.court(), court);
        assertEq(registry.operatorCount(), 0);
        assertEq(registry.MOST_MODELS(), 64);
    }

    function test_TheDomainIsTheOneOfTheProtocol() external view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tallystick"),
                keccak256("1"),
                block.chainid,
                address(registry)
            )
        );
        assertEq(registry.DOMAIN_SEPARATOR(), domain);
    }

    function testFuzz_AStakeStaysUntilItsLastReceiptsCanNoLongerBeJudged(
        uint64 horizon,
        uint64 window,
        uint64 unbonding
    ) external {
        IStake.Config memory given = config(address(token));
        given.settlementHorizon = uint64(bound(horizon, 1, 400 days));
        given.caseWindow = uint64(bound(window, 1, 400 days));
        given.unbonding = uint64(bound(unbonding, 0, 400 days));
        bool isLongEnough = given.unbonding >= given.settlementHorizon + given.caseWindow;
        bool isTooLong = given.unbonding > 365 days;
        if (isLongEnough && !isTooLong) {
            assertEq(new Stake(given).unbonding(), given.unbonding);
        } else {
            expectBadConfig("unbonding", given.unbonding);
            new Stake(given);
        }
    }

    function test_TheUnbondingMayBeExactlyAsLongAndNoSecondLess() external {
        IStake.Config memory given = config(address(token));
        given.unbonding = HORIZON + CASE_WINDOW;
        assertEq(new Stake(given).unbonding(), HORIZON + CASE_WINDOW);

        given.unbonding = HORIZON + CASE_WINDOW - 1;
        expectBadConfig("unbonding", HORIZON + CASE_WINDOW - 1);
        new Stake(given);
    }

    function test_RevertWhen_TheSumOfTheTimesOverflows() external {
        IStake.Config memory given = config(address(token));
        given.settlementHorizon = type(uint64).max;
        given.caseWindow = type(uint64).max;
        expectBadConfig("unbonding", UNBONDING);
        new Stake(given);
    }

    function test_RevertWhen_AnyEntrySuffices() external {
        IStake.Config memory given = config(address(token));
        given.minimum = 0;
        expectBadConfig("minimum", 0);
        new Stake(given);
    }

    function test_RevertWhen_ATimeIsMissing() external {
        IStake.Config memory given = config(address(token));
        given.settlementHorizon = 0;
        expectBadConfig("settlementHorizon", 0);
        new Stake(given);

        given = config(address(token));
        given.caseWindow = 0;
        expectBadConfig("caseWindow", 0);
        new Stake(given);
    }

    function test_RevertWhen_TheTokenCountsInOtherUnits() external {
        IStake.Config memory given = config(address(new WeiToken()));
        expectBadConfig("decimals", 18);
        new Stake(given);
    }

    function test_RevertWhen_NobodyOwnsIt() external {
        IStake.Config memory given = config(address(token));
        given.owner = address(0);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0)));
        new Stake(given);
    }

    function expectBadConfig(string memory field, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IStake.Stake_BadConfig.selector, field, value));
    }
}

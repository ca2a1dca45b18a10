// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {TestUSD} from "../../src/TestUSD.sol";

/// @notice A dollar that burns a share of every transfer, so that less arrives than was sent.
contract FeeToken is TestUSD {
    uint256 public feeBps;

    function setFee(uint256 bps) external {
        feeBps = bps;
    }

    function _update(address from, address to, uint256 units) internal override {
        uint256 fee = from == address(0) || to == address(0) ? 0 : units * feeBps / 10_000;
        super._update(from, to, units - fee);
        if (fee > 0) super._update(from, address(0), fee);
    }
}

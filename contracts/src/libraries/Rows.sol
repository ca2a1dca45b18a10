// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title Rows
/// @notice One account's line in a settlement, packed into one word so that a row costs one word of calldata:
///
///     | account, 160 bits | amount, 64 bits | flags, 32 bits |
///
/// The amount is cumulative, in nano-dollars: all that the account has ever spent (a charge) or ever earned (a payout).
library Rows {
    /// @notice Set on a charge whose account's next consent signature stands in the batch's list of consents.
    uint32 internal constant WITH_CONSENT = 1;

    /// @notice Packs a row.
    function pack(address account_, uint64 amount_, uint32 flags_) internal pure returns (bytes32) {
        return bytes32((uint256(uint160(account_)) << 96) | (uint256(amount_) << 32) | flags_);
    }

    /// @notice Returns the account that the row is about.
    function account(bytes32 row) internal pure returns (address) {
        return address(uint160(uint256(row) >> 96));
    }

    /// @notice Returns the cumulative amount of the row in nano-dollars.
    function amount(bytes32 row) internal pure returns (uint64) {
        // Casting keeps the low 64 bits, which is the field.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(uint256(row) >> 32);
    }

    /// @notice Returns the flags of the row.
    function flags(bytes32 row) internal pure returns (uint32) {
        // Casting keeps the low 32 bits, which is the field.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint32(uint256(row));
    }
}

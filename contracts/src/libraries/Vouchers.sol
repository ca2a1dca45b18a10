// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title Vouchers
/// @notice The EIP-712 struct hashes of the three short things that are signed in the Ledger's domain.
library Vouchers {
    bytes32 internal constant CONSENT_TYPEHASH = keccak256("Consent(address account,uint64 spent)");
    bytes32 internal constant ACKNOWLEDGEMENT_TYPEHASH =
        keccak256("Acknowledgement(address account,uint64 epoch,uint64 earned)");
    bytes32 internal constant TAKEN_TYPEHASH = keccak256("Taken(bytes32 receiptHash,uint64 epoch)");

    /// @notice A consumer's signature under all it has ever spent, in nano-dollars.
    function consent(address account, uint64 spent) internal pure returns (bytes32) {
        return keccak256(abi.encode(CONSENT_TYPEHASH, account, spent));
    }

    /// @notice The coordinator's cheque: all that an account has ever earned up to an epoch, in nano-dollars.
    function acknowledgement(address account, uint64 epoch, uint64 earned) internal pure returns (bytes32) {
        return keccak256(abi.encode(ACKNOWLEDGEMENT_TYPEHASH, account, epoch, earned));
    }

    /// @notice The coordinator's word that it took a receipt (named by its id) into an epoch.
    function taken(bytes32 receiptHash, uint64 epoch) internal pure returns (bytes32) {
        return keccak256(abi.encode(TAKEN_TYPEHASH, receiptHash, epoch));
    }
}

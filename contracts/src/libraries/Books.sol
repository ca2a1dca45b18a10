// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ILedger} from "../interfaces/ILedger.sol";

/// @notice An account's four numbers in one word of storage, each 64 bits of nano-dollars:
///
///     | balance | spent | authorized | earned |
///
/// Packed by hand because the compiler reads and writes a packed struct field by field, which costs a settled row a sixth
/// of its gas.
type Books is uint256;

using {
    BooksLibrary.balance,
    BooksLibrary.spent,
    BooksLibrary.authorized,
    BooksLibrary.earned,
    BooksLibrary.plusBalance,
    BooksLibrary.minusBalance,
    BooksLibrary.charged,
    BooksLibrary.withAuthorized,
    BooksLibrary.plusEarned,
    BooksLibrary.open
} for Books global;

/// @dev Nothing here checks that a sum or a difference stays within its 64 bits: the Ledger does, because its refusals name
/// the numbers.
library BooksLibrary {
    // Each cast keeps the low 64 bits, which is the field.
    // forge-lint: disable-start(unsafe-typecast)

    /// @notice Returns what is deposited, and neither charged nor withdrawn yet.
    function balance(Books books) internal pure returns (uint64) {
        return uint64(Books.unwrap(books) >> 192);
    }

    /// @notice Returns all that was ever charged.
    function spent(Books books) internal pure returns (uint64) {
        return uint64(Books.unwrap(books) >> 128);
    }

    /// @notice Returns how far `spent` may go.
    function authorized(Books books) internal pure returns (uint64) {
        return uint64(Books.unwrap(books) >> 64);
    }

    /// @notice Returns all that was ever credited.
    function earned(Books books) internal pure returns (uint64) {
        return uint64(Books.unwrap(books));
    }

    // forge-lint: disable-end(unsafe-typecast)

    /// @notice Returns the books after a deposit; the new balance must fit 64 bits.
    function plusBalance(Books books, uint64 amount) internal pure returns (Books) {
        unchecked {
            return Books.wrap(Books.unwrap(books) + (uint256(amount) << 192));
        }
    }

    /// @notice Returns the books after a withdrawal, of at most the balance.
    function minusBalance(Books books, uint64 amount) internal pure returns (Books) {
        unchecked {
            return Books.wrap(Books.unwrap(books) - (uint256(amount) << 192));
        }
    }

    /// @notice Returns the books after a charge, of at most the balance; the new `spent` must fit 64 bits.
    function charged(Books books, uint64 amount) internal pure returns (Books) {
        unchecked {
            return Books.wrap(Books.unwrap(books) - (uint256(amount) << 192) + (uint256(amount) << 128));
        }
    }

    /// @notice Returns the books with another right.
    function withAuthorized(Books books, uint64 right) internal pure returns (Books) {
        uint256 others = Books.unwrap(books) & ~(uint256(type(uint64).max) << 64);
        return Books.wrap(others | (uint256(right) << 64));
    }

    /// @notice Returns the books after a credit; the new `earned` must fit 64 bits.
    function plusEarned(Books books, uint64 amount) internal pure returns (Books) {
        unchecked {
            return Books.wrap(Books.unwrap(books) + amount);
        }
    }

    /// @notice Returns the four numbers by their names.
    function open(Books books) internal pure returns (ILedger.Account memory) {
        return ILedger.Account(balance(books), spent(books), authorized(books), earned(books));
    }
}

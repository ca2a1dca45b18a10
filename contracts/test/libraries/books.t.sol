// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Test} from "forge-std/Test.sol";

import {ILedger} from "../../src/interfaces/ILedger.sol";
import {Books} from "../../src/libraries/Books.sol";

contract Books_Test is Test {
    function testFuzz_TheFourNumbersLieSideBySide(uint64 balance, uint64 spent, uint64 authorized, uint64 earned)
        external
        pure
    {
        Books books = pack(balance, spent, authorized, earned);
        ILedger.Account memory account = books.open();
        assertEq(account.balance, balance);
        assertEq(account.spent, spent);
        assertEq(account.authorized, authorized);
        assertEq(account.earned, earned);
    }

    function testFuzz_ADepositAndAWithdrawalChangeTheBalanceAlone(uint256 word, uint64 amount) external pure {
        Books books = Books.wrap(word);
        amount = uint64(bound(amount, 0, type(uint64).max - books.balance()));
        Books after_ = books.plusBalance(amount);
        assertSame(after_, pack(books.balance() + amount, books.spent(), books.authorized(), books.earned()));
        assertSame(after_.minusBalance(amount), books);
    }

    function testFuzz_AChargeMovesFromTheBalanceToWhatIsSpent(uint256 word, uint64 amount) external pure {
        Books books = Books.wrap(word);
        uint64 room = type(uint64).max - books.spent();
        amount = uint64(bound(amount, 0, room < books.balance() ? room : books.balance()));
        Books expected = pack(books.balance() - amount, books.spent() + amount, books.authorized(), books.earned());
        assertSame(books.charged(amount), expected);
    }

    function testFuzz_ARightReplacesTheRightAlone(uint256 word, uint64 right) external pure {
        Books books = Books.wrap(word);
        assertSame(books.withAuthorized(right), pack(books.balance(), books.spent(), right, books.earned()));
    }

    function testFuzz_ACreditChangesTheEarningsAlone(uint256 word, uint64 amount) external pure {
        Books books = Books.wrap(word);
        amount = uint64(bound(amount, 0, type(uint64).max - books.earned()));
        Books expected = pack(books.balance(), books.spent(), books.authorized(), books.earned() + amount);
        assertSame(books.plusEarned(amount), expected);
    }

    function pack(uint64 balance, uint64 spent, uint64 authorized, uint64 earned) private pure returns (Books) {
        return Books.wrap(uint256(bytes32(abi.encodePacked(balance, spent, authorized, earned))));
    }

    function assertSame(Books given, Books expected) private pure {
        assertEq(Books.unwrap(given), Books.unwrap(expected));
    }
}

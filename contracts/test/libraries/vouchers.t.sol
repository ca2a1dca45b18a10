// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {Ledger} from "../../src/Ledger.sol";
import {ILedger} from "../../src/interfaces/ILedger.sol";
import {Receipts} from "../../src/libraries/Receipts.sol";
import {Vouchers} from "../../src/libraries/Vouchers.sol";
import {LedgerTest} from "../ledger/LedgerTest.sol";

/// @notice Everything that is signed in the Ledger's domain, against what the coordinator, the nodes and the clients sign.
contract Vouchers_Vectors_Test is LedgerTest {
    string private json;
    bytes32 private separator;

    function setUp() public override {
        super.setUp();
        json = vm.readFile("tallystick/protocol/vectors/eip712.json");
        vm.chainId(vm.parseJsonUint(json, ".chainId"));
        address at = vm.parseJsonAddress(json, ".ledger");
        deployCodeTo("Ledger.sol:Ledger", abi.encode(config(address(token))), at);
        ledger = Ledger(at);
        separator = vm.parseJsonBytes32(json, ".ledgerSeparator");
    }

    function test_TheDomainIsTheVectors() external view {
        assertEq(ledger.DOMAIN_SEPARATOR(), separator);
    }

    function test_Offers() external view {
        uint256 i = 0;
        for (; has(".offers", i); ++i) {
            string memory p = path(".offers", i);
            Receipts.Offer memory offer = Receipts.Offer({
                jobId: word(p, ".jobId"),
                attempt: uint32(number(p, ".attempt")),
                promptCommitment: word(p, ".promptCommitment"),
                parametersHash: word(p, ".parametersHash"),
                jobSeed: word(p, ".jobSeed"),
                firstPosition: uint32(number(p, ".firstPosition")),
                inputPrice: uint64(number(p, ".inputPrice")),
                outputPrice: uint64(number(p, ".outputPrice"))
            });
            assertEq(Receipts.hash(offer), word(p, ".hash"));
        }
        assertGt(i, 0);
    }

    function test_Receipts() external view {
        uint256 i = 0;
        for (; has(".receipts", i); ++i) {
            string memory p = path(".receipts", i);
            bytes32 id = Receipts.id(receipt(p), separator);
            assertEq(id, word(p, ".digest"));
            assertSigner(p, id);
        }
        assertGt(i, 1);
    }

    function test_Consents() external view {
        uint256 i = 0;
        for (; has(".consents", i); ++i) {
            string memory p = path(".consents", i);
            assertVoucher(p, Vouchers.consent(person(p, ".account"), uint64(number(p, ".spent"))));
        }
        assertGt(i, 1);
    }

    function test_Acknowledgements() external view {
        uint256 i = 0;
        for (; has(".acknowledgements", i); ++i) {
            string memory p = path(".acknowledgements", i);
            uint64 epoch = uint64(number(p, ".epoch"));
            assertVoucher(p, Vouchers.acknowledgement(person(p, ".account"), epoch, uint64(number(p, ".earned"))));
        }
        assertGt(i, 1);
    }

    function test_Taken() external view {
        uint256 i = 0;
        for (; has(".taken", i); ++i) {
            string memory p = path(".taken", i);
            assertVoucher(p, Vouchers.taken(word(p, ".receiptHash"), uint64(number(p, ".epoch"))));
        }
        assertGt(i, 1);
    }

    function test_TheLedgerTakesTheVectorsConsentAndCheque() external {
        string memory p = path(".consents", 0);
        address account = person(p, ".account");
        assertEq(person(p, ".signer"), account, "the first consent of the vectors is its owner's");
        uint64 spent = uint64(number(p, ".spent"));
        fund(account, spent / 1000 * 1000 + 1000, 0);
        endEpoch(0);
        vm.prank(coordinator);
        ledger.settle(0, 0, one(chargeWithConsent(account, spent)), oneConsent(consent(p, spent)), none());
        assertEq(ledger.accountOf(account).spent, spent);

        p = path(".acknowledgements", 0);
        vm.prank(owner);
        ledger.setCoordinator(person(p, ".signer"));
        uint64 epoch = uint64(number(p, ".epoch"));
        uint64 earned = uint64(number(p, ".earned"));
        fundBond(earned / 1000 * 1000 + 1000);
        vm.warp(ledger.epochEnd(epoch) + LAG + 1);
        ledger.cash(person(p, ".account"), epoch, earned, vm.parseJsonBytes(json, string.concat(p, ".signature")));
        assertEq(ledger.accountOf(person(p, ".account")).earned, earned);
    }

    // ---------------------------------------------------------------------------------------------------------- Readers

    function receipt(string memory p) private view returns (Receipts.Receipt memory r) {
        r.jobId = word(p, ".jobId");
        r.attempt = uint32(number(p, ".attempt"));
        r.offerHash = word(p, ".offerHash");
        r.account = person(p, ".account");
        r.node = person(p, ".node");
        r.modelId = word(p, ".modelId");
        r.parametersHash = word(p, ".parametersHash");
        r.jobSeed = word(p, ".jobSeed");
        r.promptCommitment = word(p, ".promptCommitment");
        r.outputCommitment = word(p, ".outputCommitment");
        r.promptTokens = uint32(number(p, ".promptTokens"));
        r.outputTokens = uint32(number(p, ".outputTokens"));
        r.firstPosition = uint32(number(p, ".firstPosition"));
        r.finish = uint8(number(p, ".finish"));
        r.textBytes = uint32(number(p, ".textBytes"));
        r.sketchRoot = word(p, ".sketchRoot");
        r.numericsClass = word(p, ".numericsClass");
        r.inputPrice = uint64(number(p, ".inputPrice"));
        r.outputPrice = uint64(number(p, ".outputPrice"));
        r.feeBps = uint16(number(p, ".feeBps"));
        r.startedAt = uint64(number(p, ".startedAt"));
        r.finishedAt = uint64(number(p, ".finishedAt"));
        r.blockNumber = uint64(number(p, ".blockNumber"));
        r.nonce = word(p, ".nonce");
    }

    function consent(string memory p, uint64 spent) private view returns (ILedger.ConsentSignature memory) {
        return ILedger.ConsentSignature(spent, word(p, ".r"), word(p, ".vs"));
    }

    function assertVoucher(string memory p, bytes32 structHash) private view {
        bytes32 digest_ = MessageHashUtils.toTypedDataHash(separator, structHash);
        assertEq(digest_, word(p, ".digest"));
        assertSigner(p, digest_);
    }

    function assertSigner(string memory p, bytes32 digest_) private view {
        address signer = person(p, ".signer");
        assertEq(ECDSA.recover(digest_, vm.parseJsonBytes(json, string.concat(p, ".signature"))), signer);
        assertEq(ECDSA.recover(digest_, word(p, ".r"), word(p, ".vs")), signer);
    }

    function has(string memory list, uint256 i) private view returns (bool) {
        return vm.keyExistsJson(json, path(list, i));
    }

    function path(string memory list, uint256 i) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(i), "]");
    }

    function word(string memory p, string memory name) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, string.concat(p, name));
    }

    function person(string memory p, string memory name) private view returns (address) {
        return vm.parseJsonAddress(json, string.concat(p, name));
    }

    function number(string memory p, string memory name) private view returns (uint256) {
        return vm.parseJsonUint(json, string.concat(p, name));
    }
}

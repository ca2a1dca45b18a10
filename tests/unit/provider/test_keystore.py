"""The two keys: encrypted, for their owner alone, never overwritten."""

import json
import stat
from pathlib import Path

import pytest

from provider.keystore import KeyUnavailable, address_of, import_key, key_path, load_key, make_key
from tests.support.nodes import key_of


def test_a_key_comes_back_with_its_passphrase_and_not_with_another(tmp_path: Path) -> None:
    address = make_key(tmp_path, "node", "correct horse")
    assert load_key(tmp_path, "node", "correct horse").address == address
    assert address_of(tmp_path, "node") == address
    with pytest.raises(KeyUnavailable, match="passphrase does not open"):
        load_key(tmp_path, "node", "wrong")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"7", b"{}", b'{"crypto": {"kdf": 7}}', b"\xff", b"[" * 100_000]
)
def test_a_file_that_is_no_keystore_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    make_key(tmp_path, "node", "words")
    key_path(tmp_path, "node").write_bytes(content)
    with pytest.raises(KeyUnavailable, match=r"node\.json is not an Ethereum keystore"):
        load_key(tmp_path, "node", "words")
    with pytest.raises(KeyUnavailable, match=r"node\.json"):
        address_of(tmp_path, "node")


def test_the_file_is_encrypted_and_its_owners_alone(tmp_path: Path) -> None:
    import_key(tmp_path, "operator", (7).to_bytes(32, "big"), "words")
    path = key_path(tmp_path, "operator")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "ciphertext" in json.dumps(json.loads(path.read_text()))
    assert (7).to_bytes(32, "big").hex() not in path.read_text()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    address = import_key(tmp_path, "operator", (7).to_bytes(32, "big"), "words")
    with pytest.raises(FileExistsError):
        make_key(tmp_path, "operator", "words")
    assert address_of(tmp_path, "operator") == address == key_of(7).address


def test_the_two_keys_are_apart(tmp_path: Path) -> None:
    make_key(tmp_path, "node", "words")
    with pytest.raises(KeyUnavailable, match="there is no operator key"):
        load_key(tmp_path, "operator", "words")
    with pytest.raises(KeyUnavailable, match="there is no operator key"):
        address_of(tmp_path, "operator")

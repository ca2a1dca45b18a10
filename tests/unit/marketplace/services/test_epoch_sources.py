"""A source of epoch files may give anything: it fills no disk, and leaves nothing that is not the file."""

from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from marketplace.commands.epoch_sources import EpochSources
from marketplace.services.settlement.files import EpochFiles
from tallystick.commands.console import CommandFailed
from tallystick.protocol.hashing import keccak256

GOOD = b"the file of an epoch"
MOST = 1_000


class Answers(BaseHTTPRequestHandler):
    """Epoch 1 is the file, epoch 2 has no end, epoch 3 breaks off."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        match self.path:
            case "/v1/epochs/1":
                self.end_headers()
                self.wfile.write(GOOD)
            case "/v1/epochs/2":
                self.end_headers()
                with suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1 << 20))
            case _:
                self.send_header("content-length", str(len(GOOD)))
                self.end_headers()
                self.wfile.write(GOOD[:5])

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror() -> Iterator[str]:
    """The address of somebody who has epochs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def content(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_file_is_brought_over_the_damaged_one(mirror: str, tmp_path: Path) -> None:
    files = EpochFiles(tmp_path)
    files.path(keccak256(GOOD)).write_bytes(GOOD[:5])
    await EpochSources(files, [mirror]).bring(1, keccak256(GOOD), MOST)
    assert content(tmp_path) == {keccak256(GOOD).hex(): GOOD}


async def test_a_file_without_an_end_is_read_no_further_than_an_epochs_may_be_long(
    mirror: str, tmp_path: Path
) -> None:
    await EpochSources(EpochFiles(tmp_path), [mirror]).bring(2, keccak256(GOOD), MOST)
    assert content(tmp_path) == {}


async def test_a_file_that_breaks_off_leaves_nothing(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="epochs/3"):
        await EpochSources(EpochFiles(tmp_path), [mirror]).bring(3, keccak256(GOOD), MOST)
    assert content(tmp_path) == {}

"""The coordinator as a process with a certificate of its own: https for consumers, wss for agents."""

import asyncio
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from provider.link import LinkLost, dial
from tallystick.cli import app as cli
from tallystick.client import AsyncClient
from tallystick.sdk.answers import TallystickError
from tests.support.acting import ActingEngine
from tests.support.agents import an_agent, running
from tests.support.hubs import eventually
from tests.support.servers import COORDINATOR_SECRET, NODE, Place, a_place

pytestmark = pytest.mark.anvil
PATIENCE = 90
READER = "reader@example.com"


def a_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate of 127.0.0.1; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a market's own")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert, secret


def started(place: Place, folder: Path, cert: Path, secret: Path) -> "subprocess.Popen[bytes]":
    """Start `tallystick up` with the certificate, and wait until it says that it is ready."""
    (folder / "keys").mkdir(parents=True)
    place.deployment.save(folder / "deployment.json")
    (folder / "keys" / "coordinator").write_text(COORDINATOR_SECRET)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "TALLYSTICK_TLS_CERT": str(cert),
        "TALLYSTICK_TLS_KEY": str(secret),
        "TALLYSTICK_CONFIRMATIONS": "0",
        "TALLYSTICK_LONGEST_WAIT_EPOCHS": "0",
    }
    arguments = ["up", "--data-dir", str(folder), "--port", str(port), "--json", str(folder / "up.json")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from tallystick.cli import main; main()", *arguments],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    while not (folder / "up.json").exists():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it does not start"
        time.sleep(0.1)
    return process


def grant(folder: Path) -> None:
    """Give the reader a dollar, once the treasury's deposit has been seen."""
    deadline = time.monotonic() + PATIENCE
    arguments = ["credit", "grant", READER, "1", "--data-dir", str(folder)]
    while CliRunner().invoke(cli, arguments).exit_code:
        assert time.monotonic() < deadline, "no credit"
        time.sleep(0.2)


async def asked(place: Place, folder: Path, url: str, cert: Path, key: str) -> str:
    """Return an answer of an agent that trusts this certificate besides the system's."""
    config = place.config(url)
    config.ca_file = str(cert)
    agent = an_agent(config, folder, NODE, ActingEngine(place.acts))
    async with running(agent):
        await eventually(lambda: agent.connected_since is not None, PATIENCE)
        async with AsyncClient(url, key) as client:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    return (await client.chat("echo", "hello")).text
                except TallystickError:
                    # The model is admitted a moment after the agent has connected.
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.2)


async def refused(place: Place, folder: Path, url: str) -> None:
    """Dial as an agent that trusts the system's certificates alone."""
    config = place.config(url)
    identity = an_agent(config, folder, NODE)._identity
    with pytest.raises(LinkLost, match="certificate verify failed"):
        await dial(config.coordinator, identity, [])


def test_https_and_wss_with_a_certificate_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, secret = a_certificate(tmp_path)
    with a_place() as place:
        process = started(place, tmp_path / "market", cert, secret)
        try:
            url = json.loads((tmp_path / "market" / "up.json").read_text())["base_url"]
            assert url.startswith("https://127.0.0.1:")
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                httpx.get(f"{url}/market")
            asyncio.run(refused(place, tmp_path / "stranger", url))
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            told = httpx.post(f"{url}/accounts", json={"email": READER}).json()
            grant(tmp_path / "market")
            text = asyncio.run(asked(place, tmp_path, url, cert, told["api_key"]))
            assert text == "hello"
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0

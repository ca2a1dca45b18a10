"""Whom the agent believes to be the coordinator when it dials https and wss."""

import ssl

import aiohttp

from provider.config import BadConfig


def trusted(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts the system's certificates, and those in `ca_file` (PEM) if it is named.

    Raises BadConfig for a file that has none.
    """
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise BadConfig(f"ca_file {ca_file} has no certificates to trust: {error}") from error
    return context


def http_session(ca_file: str) -> aiohttp.ClientSession:
    """Return a session for https and wss that trusts what `trusted` says. Raises BadConfig."""
    if not ca_file:
        return aiohttp.ClientSession()
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted(ca_file)))

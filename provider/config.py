"""What an agent is told: one TOML file in its home, written by `provider init` and kind to a text editor."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tallystick.protocol.ids import WireAddress
from tallystick.protocol.money import NanoUsd, format_price, parse_price

DEFAULT_PRICE = "0.30"
FILE_NAME = "config.toml"


Slots = Annotated[int, msgspec.Meta(ge=1)]


class BadConfig(ValueError):
    """The configuration cannot be read or has a wrong value; the message names the file and the field."""


class ModelConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One model that the agent serves. Prices are USD per million tokens, as strings."""

    engine: str
    model: str
    name: str = ""
    """The name it is offered under; empty means the engine's own."""
    input_price: str = DEFAULT_PRICE
    output_price: str = DEFAULT_PRICE
    slots: Slots = 4
    paused: bool = False
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """What the engine is given: dtype, threads, device, url …"""

    def prices(self) -> tuple[NanoUsd, NanoUsd]:
        """Return the input and output price in nano-dollars per token. Raises ValueError for a wrong one."""
        return parse_price(self.input_price), parse_price(self.output_price)


class ProviderConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An agent's configuration. `coordinator` ends in `/v1`."""

    coordinator: str
    chain_id: int
    ledger: WireAddress
    stake: WireAddress
    token: WireAddress
    operator: WireAddress
    node: WireAddress
    rpc_url: str = ""
    ca_file: str = ""
    """Certificates (PEM) to trust besides the system's, for a coordinator with one of its own."""
    region: str = ""
    max_fee_bps: int = 2000
    """The highest market's share the agent works for."""
    drain_seconds: int = 60
    models: list[ModelConfig] = msgspec.field(default_factory=list)


def default_home() -> Path:
    """Return the agent's directory: `$TALLYSTICK_PROVIDER_HOME`, or `~/.tallystick/provider`."""
    return Path(os.environ.get("TALLYSTICK_PROVIDER_HOME", "~/.tallystick/provider")).expanduser()


def load_config(home: Path) -> ProviderConfig:
    """Return the configuration in `home`.

    Raises BadConfig if there is none, or one that cannot be used.
    """
    path = home / FILE_NAME
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=ProviderConfig)
        for model in config.models:
            model.prices()
    except FileNotFoundError as error:
        raise BadConfig(
            f"there is no {path}; make one with: tallystick provider init --home {home}"
        ) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadConfig(f"{path}: {error}") from error
    return config


def save_config(home: Path, config: ProviderConfig) -> None:
    """Write the configuration so that a crash leaves the old or the new one, never a half."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = home / (FILE_NAME + ".new")
    fresh.write_bytes(msgspec.toml.encode(config))
    fresh.replace(home / FILE_NAME)


def describe_prices(model: ModelConfig) -> str:
    """Return a model's prices for people: `$0.30 in, $0.30 out per million tokens`."""
    given, made = model.prices()
    return f"${format_price(given)} in, ${format_price(made)} out per million tokens"

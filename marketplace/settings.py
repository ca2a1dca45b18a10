"""Every setting of the coordinator, each from `TALLYSTICK_<NAME>` in the environment or a `.env` file.

The only reader of the environment. Amounts are US dollars as decimal strings ("0.05");
the properties below give them in nano-dollars. Times say their unit in the name.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tallystick.protocol.money import BPS, NanoUsd, parse_usd


def _check_usd(text: str) -> str:
    if parse_usd(text) < 0:
        raise ValueError(f"{text!r} is below zero")
    return text


Usd = Annotated[str, AfterValidator(_check_usd)]


class Settings(BaseSettings):
    """What `tallystick up` and the coordinator run with."""

    model_config = SettingsConfigDict(
        env_prefix="TALLYSTICK_", env_file=".env", extra="ignore", frozen=True, validate_default=True
    )

    # Where things are
    data_dir: Path = Field(Path(".tallystick"), description="Books, epoch files, blobs and local keys.")
    database_url: str = Field(
        "",
        description="SQLAlchemy URL; empty: SQLite in the data directory. PostgreSQL: postgresql+psycopg://…",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    public_url: str = Field("", description="How others reach this coordinator; empty: from host and port.")
    tls_cert: Path | None = Field(
        None, description="Certificate chain (PEM) to serve https and wss with; none: plain, behind a proxy."
    )
    tls_key: Path | None = Field(None, description="The certificate's private key (PEM).")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines look.")

    # The chain
    deployment: Path = Field(
        Path("deployment.json"), description="Deployment file; relative: in the data directory."
    )
    rpc_url: str = Field("", description="RPC of the chain; empty: the deployment's.")
    coordinator_key: Path = Field(
        Path("keys/coordinator"),
        description="File with the coordinator's private key; relative: in the data directory.",
    )
    confirmations: int = Field(2, ge=0, description="Blocks on top of one before its events count.")
    chain_poll_seconds: float = Field(1.0, gt=0, description="How often the chain is read.")

    # Money
    fee_bps: int = Field(500, ge=0, le=BPS, description="The market's share of a charge, in basis points.")
    default_max_tokens: int = Field(256, ge=1, description="max_tokens of a request that has none.")
    unsigned_allowance_usd: Usd = Field(
        "0.05", description="How far a wallet may run ahead of what it authorized or signed for."
    )
    unsigned_daily_usd: Usd = Field(
        "25", description="What all wallets together may begin to run ahead of their signatures, in a day."
    )
    signup_credit_usd: Usd = Field(
        "0", description="Credit of a new e-mail account, out of the treasury's deposit."
    )
    signup_credit_daily_usd: Usd = Field(
        "25", description="What all new e-mail accounts of a day are given together."
    )
    hold_expiry_seconds: float = Field(
        900, gt=0, description="After this a hold that nobody closed is given back."
    )

    # Settlement
    maturity_lag_seconds: float = Field(60, ge=0, description="From taking a receipt to its maturity.")
    row_threshold_usd: Usd = Field("1.00", description="Matured amount that is worth a row on the chain.")
    longest_wait_epochs: int = Field(7, ge=0, description="Epochs after which a smaller amount gets its row.")
    rows_per_chunk: int = Field(200, ge=1, description="Most rows in one settlement transaction.")
    settle_poll_seconds: float = Field(
        5.0, gt=0, description="How often maturity and settlement are looked at."
    )
    lease_seconds: float = Field(15.0, gt=0, description="How long one process keeps the scheduled work.")

    # Accounts
    open_sign_up: bool = Field(True, description="Anybody may make an account with an e-mail address.")
    smtp_url: SecretStr = Field(
        SecretStr(""),
        description="smtp://user:password@host:587; empty: accounts open at once, mails go to a folder.",
    )
    mail_from: str = Field("tallystick@localhost", description="Sender of mails.")
    session_hours: float = Field(24 * 7, gt=0, description="How long a sign-in lasts.")
    mailed_link_minutes: float = Field(60, gt=0, description="How long a mailed link works.")

    # Models and nodes
    open_catalog: bool = Field(True, description="Any model that a staked node offers is admitted.")
    catalog_file: Path = Field(
        Path("catalog.json"),
        description="The models that a closed catalog admits; relative: in the data directory.",
    )
    catalog_bytes: int = Field(
        256 * 1024**2,
        ge=0,
        description="All tokenizers of the catalog together, on disk; in memory they are ten times as large.",
    )
    new_models_per_operator: int = Field(
        20, ge=0, description="New models that one operator may offer in 24 hours; 0: any number."
    )
    aliases: dict[str, str] = Field(
        default_factory=dict,
        description='Other names of models, as JSON: {"gpt-4o-mini": "smollm2-135m-instruct"}.',
    )
    accept_jobs: bool = Field(
        True, description="False: no new jobs; all else goes on, as before a move to new contracts."
    )
    heartbeat_seconds: float = Field(1.0, gt=0, description="How often a node gives a sign of life.")
    node_timeout_seconds: float = Field(3.0, gt=0, description="A node silent for longer is lost.")
    max_attempts: int = Field(4, ge=1, description="Nodes that are tried for one job.")
    first_token_seconds: float = Field(
        60.0, gt=0, description="A node without a first token by then is given up."
    )
    stall_seconds: float = Field(15.0, gt=0, description="A node without a next token by then is given up.")
    queue_seconds: float = Field(10.0, ge=0, description="How long a job waits for a free slot.")
    failover_seconds: float = Field(
        5.0, ge=0, description="How long a job that lost its node waits for another one."
    )
    cancel_seconds: float = Field(
        10.0, gt=0, description="How long a cancelled node may take to sign for what it made."
    )
    goodwill_daily_usd: Usd = Field(
        "1.00", description="What the treasury pays an operator for parts of unfinished answers, in a day."
    )

    # Limits; 0: none
    key_requests_per_minute: int = Field(600, ge=0, description="Requests a minute with one key.")
    key_burst: int = Field(120, ge=0, description="Requests at once with one key.")
    address_requests_per_minute: int = Field(
        120, ge=0, description="Requests a minute without a key, from one address."
    )
    address_burst: int = Field(30, ge=0, description="Requests at once without a key, from one address.")
    sign_ups_per_hour: int = Field(5, ge=0, description="New accounts an hour from one address.")
    mails_per_hour: int = Field(
        5, ge=0, description="Sign-in links an hour to one mailbox, whoever asks for them."
    )
    mails_per_day: int = Field(20, ge=0, description="Sign-in links a day to one mailbox.")
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body.")
    request_seconds: float = Field(60.0, gt=0, description="A request must have arrived whole by then.")
    write_seconds: float = Field(
        30.0, gt=0, description="A reader that takes nothing of its answer for so long is given up."
    )
    max_connections: int = Field(
        4000, ge=1, description="Connections at once, of nodes and clients; fewer if files run out."
    )
    max_connections_per_address: int = Field(
        500, ge=0, description="Connections at once from one address; 0: no limit."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses of proxies whose X-Forwarded-For is believed, as a JSON list."
    )

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not url.startswith(("sqlite+pysqlite:///", "postgresql+psycopg://")):
            raise ValueError(f"{url!r} is neither sqlite+pysqlite:///path nor postgresql+psycopg://…")
        return url

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or none")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(f"{path} is not there; tls_cert and tls_key name PEM files")
        return self

    @cached_property
    def books_url(self) -> str:
        """The database's URL, with its default."""
        return self.database_url or f"sqlite+pysqlite:///{self.data_dir.resolve() / 'books.sqlite'}"

    @cached_property
    def address(self) -> str:
        """How others reach this coordinator, without a slash at the end."""
        scheme = "https" if self.tls_cert else "http"
        return self.public_url.rstrip("/") or f"{scheme}://{self.host}:{self.port}"

    @cached_property
    def deployment_file(self) -> Path:
        """The deployment file, in the data directory unless its path is absolute."""
        return self.data_dir / self.deployment

    @cached_property
    def coordinator_key_file(self) -> Path:
        """The coordinator's key file, in the data directory unless its path is absolute."""
        return self.data_dir / self.coordinator_key

    @cached_property
    def catalog_path(self) -> Path:
        """The catalog file, in the data directory unless its path is absolute."""
        return self.data_dir / self.catalog_file

    @cached_property
    def unsigned_allowance(self) -> NanoUsd:
        """In nano-dollars."""
        return parse_usd(self.unsigned_allowance_usd)

    @cached_property
    def unsigned_daily(self) -> NanoUsd:
        """In nano-dollars."""
        return parse_usd(self.unsigned_daily_usd)

    @cached_property
    def signup_credit(self) -> NanoUsd:
        """In nano-dollars."""
        return parse_usd(self.signup_credit_usd)

    @cached_property
    def signup_credit_daily(self) -> NanoUsd:
        """In nano-dollars."""
        return parse_usd(self.signup_credit_daily_usd)

    @cached_property
    def goodwill_daily(self) -> NanoUsd:
        """In nano-dollars."""
        return parse_usd(self.goodwill_daily_usd)

    @cached_property
    def row_threshold(self) -> NanoUsd:
        """In nano-dollars."""
        return parse_usd(self.row_threshold_usd)

    @cached_property
    def maturity_lag_ms(self) -> int:
        """In milliseconds."""
        return round(self.maturity_lag_seconds * 1000)

    @cached_property
    def hold_expiry_ms(self) -> int:
        """In milliseconds."""
        return round(self.hold_expiry_seconds * 1000)

"""Settings come from the environment, are checked, and every one says what it is."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from marketplace.settings import Settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `.env` and no variable of the machine's."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TALLYSTICK_{name.upper()}", raising=False)


def test_the_defaults_are_a_market_on_this_machine() -> None:
    settings = Settings()
    assert settings.books_url == f"sqlite+pysqlite:///{Path.cwd()}/.tallystick/books.sqlite"
    assert settings.address == "http://127.0.0.1:8080"
    assert (settings.default_max_tokens, settings.fee_bps) == (256, 500)


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALLYSTICK_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TALLYSTICK_ROW_THRESHOLD_USD", "0.000000001")
    monkeypatch.setenv("TALLYSTICK_ALIASES", '{"gpt-4o-mini": "smollm2"}')
    monkeypatch.setenv("TALLYSTICK_PUBLIC_URL", "https://market.example/")
    monkeypatch.setenv("TALLYSTICK_DEPLOYMENT", "/etc/deployment.json")
    settings = Settings()
    assert settings.row_threshold == 1
    assert settings.aliases == {"gpt-4o-mini": "smollm2"}
    assert settings.address == "https://market.example"
    assert settings.deployment_file == Path("/etc/deployment.json")
    assert settings.coordinator_key_file == tmp_path / "data" / "keys" / "coordinator"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEE_BPS", "10001"),
        ("FEE_BPS", "-1"),
        ("SIGNUP_CREDIT_USD", "-1"),
        ("SIGNUP_CREDIT_USD", "NaN"),
        ("SIGNUP_CREDIT_USD", "0.0000000001"),
        ("DATABASE_URL", "mysql://root@localhost/books"),
        ("DATABASE_URL", "sqlite:///books.sqlite"),
        ("PORT", "65536"),
        ("MATURITY_LAG_SECONDS", "-1"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TALLYSTICK_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_password_is_not_in_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_SMTP_URL", "smtp://me:hunter2@mail.example")
    assert "hunter2" not in repr(Settings())


def test_a_certificate_comes_with_its_key_and_makes_the_address_https(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    monkeypatch.setenv("TALLYSTICK_TLS_CERT", str(cert))
    with pytest.raises(ValidationError, match="belong together"):
        Settings()
    monkeypatch.setenv("TALLYSTICK_TLS_KEY", str(key))
    with pytest.raises(ValidationError, match="is not there"):
        Settings()
    cert.touch()
    key.touch()
    assert Settings().address == "https://127.0.0.1:8080"

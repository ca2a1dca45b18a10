"""The configuration file: what is written is what is read, and a wrong one is refused by name."""

from pathlib import Path

import pytest

from provider.config import BadConfig, ModelConfig, describe_prices, load_config, save_config
from tests.support.agents import a_config


def test_a_stored_configuration_comes_back_as_it_was(tmp_path: Path) -> None:
    model = ModelConfig(
        engine="transformers",
        model="some/model",
        input_price="0.1",
        options={"dtype": "float32", "threads": 2},
    )
    config = a_config(region="eu", models=[model, ModelConfig(engine="echo", model="echo", paused=True)])
    save_config(tmp_path / "home", config)
    assert load_config(tmp_path / "home") == config
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_without_a_file_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="tallystick provider init"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('input_price = "0.30"', 'input_price = "0.3005"', "input_price|0.3005"),
        ('input_price = "0.30"', "input_price = 0.3", "str"),
        ("slots = 4", "sluts = 4", "sluts"),
        ("slots = 4", "slots = 0", "slots"),
        ('ledger = "0x', 'ledger = "1x', "ledger"),
        ("chain_id = 31337", "chain_id = [", "TOML|array|value"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_field(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    save_config(tmp_path, a_config())
    path = tmp_path / "config.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(BadConfig, match=said) as refused:
        load_config(tmp_path)
    assert str(path) in str(refused.value)


def test_prices_are_said_in_dollars_per_million() -> None:
    assert describe_prices(ModelConfig(engine="echo", model="m", input_price="0.3", output_price="1.25")) == (
        "$0.30 in, $1.25 out per million tokens"
    )

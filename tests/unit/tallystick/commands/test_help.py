"""The command line as a whole: every command explains itself, with an example."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tallystick.cli import COMMANDS as COMMAND_GROUP
from tallystick.cli import app
from tallystick.commands.summaries import summary_of

ROOT = get_command(app)


def _commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(ROOT)
    assert isinstance(ROOT, click.Group)
    for name in ROOT.list_commands(context):
        command = ROOT.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            for sub in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), sub)
                assert found is not None
                yield f"{name} {sub}", found
        else:
            yield name, command


COMMANDS = dict(_commands())


def test_the_parts_of_the_market_have_their_commands() -> None:
    for name in ("up", "doctor", "logs", "version", "epoch verify", "receipt verify"):
        assert name in COMMANDS
    assert {name for name in COMMANDS if name.startswith("provider ")} == {
        f"provider {name}"
        for name in (
            [
                "init",
                "doctor",
                "register",
                "run",
                "status",
                "logs",
                "price",
                "pause",
                "resume",
                "earnings",
                "claim",
                "cash",
                "rotate-node-key",
                "exit",
            ]
        )
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert f"tallystick {name}" in " ".join(shown.output.split()), shown.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_says_what_it_is(name: str) -> None:
    silent = [
        parameter.name
        for parameter in COMMANDS[name].params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


def test_a_command_that_is_none_is_refused_in_one_line() -> None:
    shown = CliRunner().invoke(app, ["dance"])
    assert shown.exit_code == 2
    assert "No such command 'dance'" in shown.output


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    told = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).output
    for point in entry_points(group=COMMAND_GROUP):
        command = ROOT.get_command(click.Context(ROOT), point.name)  # type: ignore[attr-defined]
        said = summary_of(point.module, point.attr)
        assert said.splitlines()[0] == (command.help or "").splitlines()[0] != ""
        assert said.splitlines()[0] in told


def test_the_list_of_commands_loads_none_of_them() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tallystick.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('web3', 'eth_account', 'sqlalchemy', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

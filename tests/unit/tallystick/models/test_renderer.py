"""Foreign chat templates cannot take the coordinator's time or memory."""

import time
from collections.abc import Iterator

import pytest

from tallystick.models.chat import BadMessages, BadTemplate, render_chat
from tallystick.models.renderer import Renderer
from tests.unit.tallystick.models.test_chat import HELLO, SMOL, with_template


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    """One renderer for all tests: each must leave it fit for the next."""
    made = Renderer()
    yield made
    made.close()


def test_prompts_are_those_of_the_same_template_at_home(renderer: Renderer) -> None:
    for messages in (HELLO, [*HELLO, {"role": "assistant", "content": "é" * 100_000}, *HELLO]):
        for manifest in (with_template(SMOL), with_template("")):
            assert renderer.render(manifest, messages) == render_chat(manifest, messages)


def test_it_is_said_whose_fault_it_is(renderer: Renderer) -> None:
    with pytest.raises(BadMessages, match="system first"):
        renderer.render(with_template("{{ raise_exception('system first') }}"), HELLO)
    with pytest.raises(BadMessages, match="needs a role"):
        renderer.render(with_template(SMOL), [{"role": "user"}])
    with pytest.raises(BadTemplate, match="does not compile"):
        renderer.render(with_template("{% for %}"), HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3,
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set x = '%50000000000d' % 1 %}",
        "{% set x = '{:>50000000000}'.format(1) %}",
        "{% set x = 'a'.ljust(50000000000) %}",
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 40 + "{{ a | string | length }}",
        "{% set x %}aaaaaaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    ],
)
def test_a_template_that_runs_riot_ends_alone(renderer: Renderer, template: str) -> None:
    riot = with_template(template)
    with pytest.raises(BadTemplate):
        renderer.render(riot, HELLO)
    assert renderer.render(with_template(SMOL), HELLO) == render_chat(with_template(SMOL), HELLO)


def test_a_template_that_was_the_end_of_a_process_is_not_tried_again(renderer: Renderer) -> None:
    riot = with_template("{% for a in range(9999) %}" * 4 + "{% endfor %}" * 4)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(BadTemplate, match="too much time or memory"):
            renderer.render(riot, HELLO)
    assert time.monotonic() - began < 0.1


def test_a_process_that_was_killed_from_outside_is_replaced(renderer: Renderer) -> None:
    renderer.render(with_template(SMOL), HELLO)
    assert renderer._child is not None
    renderer._child._process.kill()
    assert renderer.render(with_template(SMOL), HELLO) == render_chat(with_template(SMOL), HELLO)

"""Rendering a conversation into the prompt text that a model was trained on.

Chat templates come with models that providers bring, so they are foreign code: they run in Jinja's sandbox,
and what they may repeat, loop over and print is bounded.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tallystick.models.manifest import Manifest

DEFAULT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""How messages read for a model without a template: one line each, `role: content`."""

MAX_PROMPT_CHARACTERS: Final = 8 * 1024 * 1024
_MAX_RANGE: Final = 10_000
_MAX_LOOP_DEPTH: Final = 4


class BadTemplate(ValueError):
    """A chat template that does not compile, fails, or runs riot; the model is at fault."""


class BadMessages(ValueError):
    """Messages that are malformed, or that the template refuses; the caller is at fault."""


class PromptTooLong(ValueError):
    """A prompt of more tokens than the model's context has."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens")
        self.tokens = tokens


class Prompt(NamedTuple):
    """What a model is given. There are no ids where its engine shows none."""

    text: str
    ids: tuple[int, ...]


def render_chat(
    manifest: Manifest, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
) -> str:
    """Return the prompt text for `messages`, each with a `role` and a `content` in text.

    Raises BadMessages for messages that the template cannot take, BadTemplate for a template that is broken.
    """
    _check_messages(messages)
    template = _compiled(manifest.chat_template or DEFAULT_TEMPLATE)
    parts: list[str] = []
    length = 0
    try:
        for part in template.generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **dict(manifest.special_tokens),
        ):
            parts.append(part)
            length += len(part)
            if length > MAX_PROMPT_CHARACTERS:
                raise BadMessages(f"the rendered prompt exceeds {MAX_PROMPT_CHARACTERS} characters")
    except _Refusal as refusal:
        raise BadMessages(f"the model's chat template refuses these messages: {refusal.message}") from refusal
    except BadMessages:
        raise
    except Exception as error:  # foreign code may raise anything
        raise BadTemplate(f"the model's chat template fails: {error}") from error
    return "".join(parts)


def compile_template(manifest: Manifest) -> None:
    """Compile the model's template, which is remembered. Raises BadTemplate."""
    _compiled(manifest.chat_template or DEFAULT_TEMPLATE)


class _Refusal(jinja2.TemplateError):
    """What a template's `raise_exception` raises."""


class _Generation(Extension):
    """Accepts `{% generation %}`, by which templates mark answers for training, and renders what is in it."""

    tags = {"generation"}  # noqa: RUF012 — Jinja's own declaration is a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, where `*` and `**` cannot make something huge out of something small."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("a chat template has no use for powers")
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple) and isinstance(other, int) and len(one) * other > 100_000:
                raise SecurityError("a chat template repeats something more than 100,000 times")
        return super().call_binop(context, operator, left, right)


@lru_cache(maxsize=256)
def _compiled(source: str) -> jinja2.Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=_strftime_now, range=_short_range)
    try:
        _check_loops(environment.parse(source), 0)
        return environment.from_string(source)
    except BadTemplate:
        raise
    except Exception as error:  # whatever a foreign text trips in the compiler
        raise BadTemplate(f"the model's chat template does not compile: {error}") from error


def _check_loops(node: nodes.Node, depth: int) -> None:
    if isinstance(node, nodes.For):
        depth += 1
        if depth > _MAX_LOOP_DEPTH:
            raise BadTemplate(f"a chat template nests loops more than {_MAX_LOOP_DEPTH} deep")
        if node.recursive:
            raise BadTemplate("a chat template has no use for recursive loops")
    for child in node.iter_child_nodes():
        _check_loops(child, depth)


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if not messages:
        raise BadMessages("a conversation has at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise BadMessages(f"messages[{index}] needs a role and a content in text")


def _refuse(message: object) -> None:
    raise _Refusal(str(message))


def _short_range(*arguments: int) -> range:
    numbers = range(*arguments)
    if len(numbers) > _MAX_RANGE:
        raise SecurityError(f"a chat template loops over more than {_MAX_RANGE} numbers")
    return numbers


def _strftime_now(format_: str) -> str:
    return datetime.now(UTC).strftime(format_)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

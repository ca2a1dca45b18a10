import pytest

from tallystick.models.chat import BadMessages, BadTemplate, render_chat
from tallystick.models.manifest import Manifest

SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HELLO = [{"role": "user", "content": 'Hi <there> & "you"'}]


def with_template(template: str, **special: str) -> Manifest:
    return Manifest(
        name="m",
        family="causal-lm",
        chat_template=template,
        special_tokens=tuple(sorted(special.items())),
        context_length=10,
        numerics="fp32",
    )


def test_a_chat_template_renders_as_the_model_was_trained() -> None:
    assert render_chat(with_template(SMOL), HELLO) == (
        "<|im_start|>system\nYou are helpful<|im_end|>\n"
        '<|im_start|>user\nHi <there> & "you"<|im_end|>\n<|im_start|>assistant\n'
    )


def test_rendering_agrees_with_transformers() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [
        {"role": "system", "content": "S"},
        *HELLO,
        {"role": "assistant", "content": "{{ x }}"},
        *HELLO,
    ]
    tricky = (
        "{%- for m in messages %}\n    {{ m.content | tojson }}\n{%- endfor %}\n"
        "  {% if bos_token %}{{ bos_token }}{% endif %}\n"
    )
    for template in (SMOL, tricky):
        rendered, _ = utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, bos_token="<s>"
        )
        assert render_chat(with_template(template, bos_token="<s>"), messages) == rendered[0]


def test_a_model_without_a_template_reads_lines() -> None:
    assert render_chat(with_template(""), HELLO) == 'user: Hi <there> & "you"\nassistant: '
    assert render_chat(with_template(""), HELLO, add_generation_prompt=False) == 'user: Hi <there> & "you"\n'


def test_a_template_may_refuse_messages() -> None:
    refusing = "{% if messages[0].role == 'user' %}{{ raise_exception('system first') }}{% endif %}"
    with pytest.raises(BadMessages, match="system first"):
        render_chat(with_template(refusing), HELLO)


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], [{"role": "user", "content": None}], [{"content": "x"}]]
)
def test_malformed_messages_are_refused(messages: list[dict[str, object]]) -> None:
    with pytest.raises(BadMessages):
        render_chat(with_template(SMOL), messages)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ messages[9].content }}{{ 1 / 0 }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__()() }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 'x' * 1000000000 }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for a in messages %}" * 5 + "{% endfor %}" * 5,
        "{{ cycler() }}",
        "{{ 'x' + 1 }}",
    ],
)
def test_a_broken_or_hostile_template_is_the_models_fault(template: str) -> None:
    with pytest.raises(BadTemplate):
        render_chat(with_template(template), HELLO)

"""Short forms of what every test asks."""

from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion


def says(text: str) -> list[Any]:
    """Return one message of the user's."""
    return [{"role": "user", "content": text}]


def ask(client: OpenAI, text: str, model: str = "echo", **options: Any) -> ChatCompletion:
    """Return the whole answer to one message."""
    answer = client.chat.completions.create(model=model, messages=says(text), **options)
    assert isinstance(answer, ChatCompletion)
    return answer

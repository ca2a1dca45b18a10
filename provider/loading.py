"""From a configured model to its engine; an engine's libraries are imported only when it is used."""

from importlib import import_module
from typing import Any, Final, cast

from provider.config import BadConfig, ModelConfig
from provider.engines.base import Engine

ENGINES: Final = {
    "transformers": ("provider.engines.transformers_engine.engine", "TransformersEngine"),
    "openai": ("provider.engines.openai_engine", "OpenAIEngine"),
    "echo": ("provider.engines.echo", "EchoEngine"),
}


def make_engine(terms: ModelConfig) -> Engine:
    """Return the engine of a configured model, not started yet.

    Raises BadConfig for an unknown engine, missing libraries or options that it does not take.
    """
    if terms.engine not in ENGINES:
        raise BadConfig(f"there is no engine {terms.engine!r}; the engines are {', '.join(ENGINES)}")
    module, name = ENGINES[terms.engine]
    try:
        kind = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise BadConfig(
            f"the {terms.engine} engine needs {error.name}; pip install 'tallystick[{terms.engine}]'"
        ) from error
    arguments: dict[str, Any] = {"slots": terms.slots, **terms.options}
    if terms.engine != "echo":
        arguments["model"] = terms.model
    if terms.name:
        arguments["model_name"] = terms.name
    try:
        return cast(Engine, kind(**arguments))
    except TypeError as error:
        raise BadConfig(f"the {terms.engine} engine does not take these options: {error}") from error

"""From a configured model to its engine; an engine's libraries are imported only when it is used."""

from importlib import import_module
from typing import Any, Final, cast

from provider.config import BadConfig, ModelConfig
from provider.engines.base import Engine
from tallystick.models.manifest import Manifest

ENGINES: Final = {
    "transformers": ("provider.engines.transformers_engine.engine", "TransformersEngine"),
    "openai": ("provider.engines.openai_engine", "OpenAIEngine"),
    "echo": ("provider.engines.echo", "EchoEngine"),
}

DESCRIBERS: Final = {"transformers": ("provider.engines.transformers_engine.ready", "describe")}
"""What tells an engine's manifest with the same options, sooner than the engine could."""


def make_engine(terms: ModelConfig) -> Engine:
    """Return the engine of a configured model, not started yet.

    Raises BadConfig for an unknown engine, missing libraries or options that it does not take.
    """
    if terms.engine not in ENGINES:
        raise BadConfig(f"there is no engine {terms.engine!r}; the engines are {', '.join(ENGINES)}")
    return cast(Engine, _made(terms, *ENGINES[terms.engine]))


async def describe(terms: ModelConfig) -> Manifest:
    """Return what the engine of a configured model would serve, without loading weights where that can be.

    Raises BadConfig as `make_engine` does, and what the engine's `start` raises.
    """
    if terms.engine in DESCRIBERS:
        manifest: Manifest = await _made(terms, *DESCRIBERS[terms.engine])
        return manifest
    engine = make_engine(terms)
    await engine.start()
    try:
        return engine.manifest
    finally:
        await engine.close()


def _made(terms: ModelConfig, module: str, name: str) -> Any:
    """Call what an engine is made with, or described with."""
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
        return kind(**arguments)
    except TypeError as error:
        raise BadConfig(f"the {terms.engine} engine does not take these options: {error}") from error

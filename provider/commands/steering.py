"""What the owner may ask of an agent that runs; see `provider/control.py` for the wire."""

from pathlib import Path
from typing import Any, Final

import msgspec

from provider.agent import Agent
from provider.config import BadConfig, ModelConfig, ProviderConfig, describe_prices, save_config
from provider.serving import ServedModel

TERMS: Final = frozenset({"paused", "input_price", "output_price", "slots"})


def control(agent: Agent, home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked and return how the agent is then. Raises ValueError for what it cannot do."""
    match request:
        case {"do": "status"}:
            pass
        case {"do": "drain"}:
            agent.drain()
        case {"do": "terms", "model": str(name), **changes}:
            _change_terms(agent, home, name, changes)
        case _:
            raise ValueError(f"the agent does not know how to do {request!r}")
    return status_of(agent)


def control_start(config: ProviderConfig, home: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked of an agent that still loads its models, and return how it is.

    Raises ValueError for what it cannot do yet; a change of terms holds from its first offer on.
    """
    match request:
        case {"do": "status"}:
            pass
        case {"do": "terms", "model": str(name), **changes}:
            change_config(config, name, changes)
            save_config(home, config)
        case _:
            raise ValueError("the agent still loads its models; ask again once it serves")
    return {
        "running": True,
        "starting": True,
        "connected": False,
        "coordinator": config.coordinator,
        "node": config.node,
        "operator": config.operator,
        "models": models_of(config),
    }


def change_config(config: ProviderConfig, name: str, changes: dict[str, Any]) -> None:
    """Change the terms of the model called `name`, of all of them for "".

    Raises BadConfig for a model that is not configured, ValueError for a value that cannot be.
    """
    found = [terms for terms in config.models if name in (terms.name, terms.model, "")]
    if not found:
        known = ", ".join(terms.name or terms.model for terms in config.models)
        raise BadConfig(f"{name!r} is not configured; {known} is")
    config.models = [changed(terms, changes) if terms in found else terms for terms in config.models]


def models_of(config: ProviderConfig) -> list[dict[str, Any]]:
    """Return the configured models as they are shown."""
    return [
        {"model": terms.name or terms.model, "prices": describe_prices(terms), "paused": terms.paused}
        for terms in config.models
    ]


def changed(terms: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    """Return `terms` with other prices, slots or a pause. Raises ValueError for a value that cannot be."""
    if unknown := changes.keys() - TERMS:
        raise ValueError(f"{', '.join(sorted(unknown))} cannot be changed")
    try:
        fresh = msgspec.convert(msgspec.to_builtins(terms) | changes, ModelConfig)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    fresh.prices()
    return fresh


def status_of(agent: Agent) -> dict[str, Any]:
    """Return how a running agent is."""
    return {
        "running": True,
        "connected": agent.connected_since is not None,
        "draining": agent.draining,
        "jobs_running": len(agent.jobs),
        "jobs_done": agent.jobs.done,
        "coordinator": agent.config.coordinator,
        "node": agent.config.node,
        "operator": agent.config.operator,
        "models": [_model(model) for model in agent.models.values()],
        "notices": list(agent.notices),
    }


def _change_terms(agent: Agent, home: Path, name: str, changes: dict[str, Any]) -> None:
    found = [model for model in agent.models.values() if name in ("", model.name, model.terms.model)]
    if not found:
        served = ", ".join(model.name for model in agent.models.values())
        raise ValueError(f"the agent does not serve {name!r}; it serves {served}")
    # All or nothing: a wrong value must not leave one model changed and the next as it was.
    fresh = [(model, changed(model.terms, changes)) for model in found]
    for model, terms in fresh:
        model.set_terms(terms)
    agent.config.models = [model.terms for model in agent.models.values()]
    save_config(home, agent.config)
    agent.publish_offers()


def _model(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "engine": model.engine.name,
        "prices": describe_prices(model.terms),
        "slots": model.slots,
        "paused": model.terms.paused,
    }

"""A model whose own template is broken is said to be, and is no bug of the coordinator's."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from marketplace.domain.catalog import CatalogModel
from tallystick.models.manifest import Manifest, canonical_json, model_id
from tallystick.models.renderer import Renderer
from tests.api.asking import says
from tests.support.servers import Server


@pytest.fixture
def broken(server: Server) -> Iterator[str]:
    """The name of a model whose template fails, listed for the time of the test."""
    manifest = Manifest(
        name="broken",
        family="echo",
        chat_template="{{ nothing.at.all }}",
        context_length=4096,
        numerics="echo",
    )
    renderer, catalog = Renderer(), server.parts.catalog
    listed: Any = catalog._by_name
    wanted = model_id(canonical_json(manifest))
    listed["broken"] = CatalogModel(
        wanted, "broken", manifest, None, partial(renderer.render, manifest), admitted_at_ms=0
    )
    yield "broken"
    del listed["broken"]
    renderer.close()


def test_a_broken_template_is_the_models_fault(http: httpx.Client, broken: str) -> None:
    answer = http.post("/v1/chat/completions", json={"model": broken, "messages": says("hello")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_template")
    assert answer.json()["error"]["param"] == "model"

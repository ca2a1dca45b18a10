"""From a model's name to the model, its tokenizer and its manifest; see `ready.py` for what is kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from provider.engines.base import EngineRefused
from provider.engines.transformers_engine.prepare import DTYPES
from provider.engines.transformers_engine.ready import ready_model
from tallystick.models.manifest import Manifest


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what says which one it is."""

    model: Any
    manifest: Manifest
    manifest_bytes: bytes
    tokenizer_json: bytes


def load_model(
    model: str, *, dtype: str, device: torch.device, cache_dir: Path, name: str | None = None
) -> LoadedModel:
    """Return `model` in eval mode on `device`; `name` replaces what it is called.

    Raises EngineRefused for a wrong model or dtype, EngineUnavailable if a hub does not answer.
    """
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    ready = ready_model(model, dtype=dtype, cache_dir=cache_dir, name=name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        ready.weights, dtype=DTYPES[dtype], use_safetensors=True
    )
    return LoadedModel(
        model=loaded.to(device).eval(),
        manifest=ready.manifest,
        manifest_bytes=ready.manifest_bytes,
        tokenizer_json=ready.tokenizer_json,
    )


def pick_device(wanted: str) -> torch.device:
    """Return the device called `wanted`, the best for "auto". Raises EngineRefused if it is missing."""
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device("cuda" if has["cuda"] else "mps" if has["mps"] else "cpu")
    if not has.get(wanted.split(":")[0], False):
        raise EngineRefused("engine", f"there is no device {wanted!r} on this machine")
    return torch.device(wanted)

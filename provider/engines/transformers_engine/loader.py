"""From a model's name to the model, its tokenizer and its manifest.

The first start with a model hashes its files, reads its tokenizer and, for GGUF, converts the weights (they
would take as long at every start). All of it is kept, so that later starts take seconds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from provider.engines.base import EngineRefused
from provider.engines.transformers_engine.cache import file_sha256, ready_folder
from provider.engines.transformers_engine.prepare import DTYPES, FORMAT, prepare
from provider.engines.transformers_engine.sources import find_source
from tallystick.models.manifest import Manifest, decode_manifest


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
    if dtype not in DTYPES:
        raise EngineRefused("engine", f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = find_source(model)
    name = name or source.name
    digests = tuple((file.name, file_sha256(file, cache_dir)) for file in source.weight_files())
    key = {"format": FORMAT, "files": digests, "name": name, "dtype": dtype}
    if source.gguf is not None:
        # How a GGUF's tokenizer is rebuilt is the library's business, and may change with it.
        key["transformers"] = transformers.__version__
    folder = ready_folder(cache_dir, key, lambda draft: prepare(source, draft, dtype, name, digests))
    manifest_bytes = (folder / "manifest.json").read_bytes()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder if source.gguf is not None else source.folder,
        dtype=DTYPES[dtype],
        use_safetensors=True,
    )
    return LoadedModel(
        model=loaded.to(device).eval(),
        manifest=decode_manifest(manifest_bytes),
        manifest_bytes=manifest_bytes,
        tokenizer_json=(folder / "tokenizer.json").read_bytes(),
    )


def pick_device(wanted: str) -> torch.device:
    """Return the device called `wanted`, the best for "auto". Raises EngineRefused if it is missing."""
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device("cuda" if has["cuda"] else "mps" if has["mps"] else "cpu")
    if not has.get(wanted.split(":")[0], False):
        raise EngineRefused("engine", f"there is no device {wanted!r} on this machine")
    return torch.device(wanted)

"""What is known of a model without loading it: the first look at it is worked out, and kept.

The first look hashes the model's files, reads its tokenizer and, for GGUF, converts the weights (they would
take as long at every start). What is kept is found again by the content of those files, so that a model that
was looked at before can be described without the libraries that run it, whose import alone takes seconds.
"""

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from provider.engines.base import EngineRefused
from provider.engines.transformers_engine.cache import file_sha256, models_dir, ready_folder
from provider.engines.transformers_engine.sources import Source, find_source
from tallystick.models.manifest import BadManifest, Manifest, decode_manifest

logger = logging.getLogger(__name__)

FORMAT: Final = 1
"""Of the folders that are kept; a new number makes them anew."""

NUMERICS: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""The dtypes that weights can be loaded in, and what a manifest calls their arithmetic."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that only has to be loaded, from `weights`."""

    weights: Path
    manifest: Manifest
    manifest_bytes: bytes
    tokenizer_json: bytes


def ready_model(model: str, *, dtype: str, cache_dir: Path, name: str | None = None) -> Ready:
    """Return what is known of `model`, worked out now if it was not before; `name` replaces its own name.

    Raises EngineRefused for a wrong model or dtype, EngineUnavailable if a hub does not answer.
    """
    if dtype not in NUMERICS:
        raise EngineRefused("engine", f"dtype is one of {', '.join(NUMERICS)}, not {dtype!r}")
    source = find_source(model)
    name = name or source.name
    digests = _digests(source.weight_files(), cache_dir)
    key = {
        "format": FORMAT,
        "files": digests,
        "name": name,
        "dtype": dtype,
        **_tokenizer_key(source, cache_dir),
    }

    def prepare_anew(draft: Path) -> None:
        from provider.engines.transformers_engine.prepare import prepare

        # The terminal shows this line of a wait that may be long.
        logger.info("preparing %s; only the first start with a model takes this long", name)
        prepare(source, draft, dtype, name, digests)

    folder = ready_folder(cache_dir, key, prepare_anew)
    return _read(folder, folder if source.gguf is not None else source.folder, digests)


async def describe(
    model: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    threads: int | None = None,
    slots: int = 8,
    cache_dir: Path | str | None = None,
    model_name: str | None = None,
) -> Manifest:
    """Return the manifest of the engine with these options, without loading the weights.

    Raises EngineRefused for a wrong model or dtype, EngineUnavailable if a hub does not answer.
    """
    ready = await asyncio.to_thread(
        ready_model, model, dtype=dtype, cache_dir=models_dir(cache_dir), name=model_name
    )
    return ready.manifest


def _digests(files: list[Path], cache_dir: Path) -> tuple[tuple[str, str], ...]:
    return tuple((file.name, file_sha256(file, cache_dir)) for file in files)


def _tokenizer_key(source: Source, cache_dir: Path) -> dict[str, object]:
    """Return what, besides the weights, decides what a model's tokenizer is."""
    if source.gguf is not None:
        # How a GGUF's tokenizer is rebuilt is the library's business, and may change with it.
        return {"transformers": version("transformers")}
    return {"beside": _digests(source.text_files(), cache_dir)}


def _read(folder: Path, weights: Path, digests: tuple[tuple[str, str], ...]) -> Ready:
    manifest_bytes = (folder / "manifest.json").read_bytes()
    tokenizer_json = (folder / "tokenizer.json").read_bytes()
    try:
        manifest = decode_manifest(manifest_bytes)
    except BadManifest as error:
        raise _spoilt(folder) from error
    if (manifest.weights, manifest.tokenizer) != (digests, hashlib.sha256(tokenizer_json).hexdigest()):
        raise _spoilt(folder)
    return Ready(weights, manifest, manifest_bytes, tokenizer_json)


def _spoilt(folder: Path) -> EngineRefused:
    return EngineRefused("engine", f"what was kept of this model is damaged; delete {folder} to make it anew")

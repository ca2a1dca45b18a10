"""The first start with a model: its tokenizer and manifest are worked out, a GGUF's weights converted."""

import contextlib
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from provider.engines.base import EngineRefused
from provider.engines.transformers_engine.ready import NUMERICS
from provider.engines.transformers_engine.sources import Source
from tallystick.models.manifest import (
    MAX_CONTEXT_LENGTH,
    BadManifest,
    Manifest,
    canonical_json,
    check_manifest,
)

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
_LENGTHS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def prepare(source: Source, draft: Path, dtype: str, name: str, weights: tuple[tuple[str, str], ...]) -> None:
    """Write manifest.json and tokenizer.json into `draft`, and converted weights if `source` is a GGUF file.

    Raises EngineRefused for a model that cannot be offered.
    """
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with contextlib.nullcontext() if source.gguf is None else _gguf_read_once_and_quietly():
        blob, manifest = _described(source, draft, dtype)
    manifest = msgspec.structs.replace(manifest, name=name, weights=weights)
    try:
        check_manifest(manifest)
    except BadManifest as error:
        raise EngineRefused("engine", f"this model cannot be offered: {error}") from error
    (draft / "tokenizer.json").write_bytes(blob)
    (draft / "manifest.json").write_bytes(canonical_json(manifest))


def _described(source: Source, draft: Path, dtype: str) -> tuple[bytes, Manifest]:
    """Return tokenizer.json and the manifest, but for name and weights; a GGUF's weights go to `draft`."""
    if source.gguf is None:
        config, generation = AutoConfig.from_pretrained(source.folder), _generation_config(source.folder)
    else:
        config, generation = _convert(source, draft, DTYPES[dtype])
    extra = {} if source.gguf is None else {"gguf_file": source.gguf}
    tokenizer = AutoTokenizer.from_pretrained(source.folder, **extra)
    blob = _tokenizer_json(source, tokenizer)
    return blob, Manifest(
        name=source.name,
        family="causal-lm",
        tokenizer=hashlib.sha256(blob).hexdigest(),
        chat_template=_chat_template(tokenizer),
        special_tokens=_special_tokens(tokenizer),
        eos_ids=_eos_ids(generation, config, tokenizer),
        vocab_size=config.get_text_config().vocab_size,
        context_length=_context_length(config),
        numerics=_numerics(source, dtype),
    )


@contextlib.contextmanager
def _gguf_read_once_and_quietly() -> Iterator[None]:
    """Let transformers read a GGUF file's fields once, not thrice, and map names once, not for each module.

    It does so by remembering what two functions of `gguf` return, which halves the time for a small model.
    The bar that transformers draws meanwhile has no switch; it would end up in what our commands say.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    with (
        _replaced(gguf, "GGUFReader", cache(gguf.GGUFReader)),
        _replaced(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
        _replaced(reading, "tqdm", lambda tensors, **_: tensors),
    ):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, other: Any) -> Iterator[None]:
    """Put `other` in the place of a module's function while the block runs."""
    before = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, before)


def _convert(source: Source, draft: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Save a GGUF file's dequantised weights as safetensors; return the model's two configurations."""
    loaded = AutoModelForCausalLM.from_pretrained(source.folder, gguf_file=source.gguf, dtype=dtype)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that came from GGUF refuses to be saved; a fresh one with its weights does not.
    fresh: Any = type(loaded)(config)
    fresh = fresh.to(dtype)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(draft)
    return config, loaded.generation_config


def _generation_config(folder: Path) -> Any:
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None


def _tokenizer_json(source: Source, tokenizer: Any) -> bytes:
    file = source.folder / "tokenizer.json"
    if source.gguf is None and file.is_file():
        return file.read_bytes()
    if not getattr(tokenizer, "is_fast", False):
        raise EngineRefused("engine", f"{source.name} has no tokenizer that becomes a tokenizer.json")
    text: str = tokenizer.backend_tokenizer.to_str()
    return text.encode()


def _chat_template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or ""


def _special_tokens(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    named = ((name, getattr(tokenizer, name, None)) for name in sorted(_SPECIAL))
    return tuple((name, str(token)) for name, token in named if token is not None)


def _eos_ids(generation: Any, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return every id that ends an answer, sorted."""
    ids: set[int] = set()
    text_config = config.get_text_config()
    for holder in (generation, text_config, tokenizer):
        found = getattr(holder, "eos_token_id", None)
        ids.update(found if isinstance(found, list | tuple) else () if found is None else (found,))
    return tuple(sorted(ids))


def _context_length(config: Any) -> int:
    text_config = config.get_text_config()
    for name in _LENGTHS:
        if isinstance(length := getattr(text_config, name, None), int):
            return min(length, MAX_CONTEXT_LENGTH)
    raise EngineRefused("engine", "the model's config does not say how long its context is")


def _numerics(source: Source, dtype: str) -> str:
    if source.gguf is None:
        return NUMERICS[dtype]
    from gguf import GGUFReader, LlamaFileType

    field = GGUFReader(source.folder / source.gguf).get_field("general.file_type")
    if field is None:
        raise EngineRefused("engine", f"{source.gguf} does not say how it is quantised")
    quantised = LlamaFileType(int(field.contents())).name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
    return f"gguf-{quantised}/{NUMERICS[dtype]}"

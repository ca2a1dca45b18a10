"""The tokenizer files of a model folder, read without any model library."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tokenizers

from provider.engines.base import EngineRefused

_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a manifest says about text and tokens."""

    tokenizer_json: bytes
    chat_template: str
    special_tokens: tuple[tuple[str, str], ...]
    eos_ids: tuple[int, ...]


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Return what `folder` holds: tokenizer.json, and what it has of the usual files beside it.

    Raises EngineRefused if there is no tokenizer.json, or a file is malformed.
    """
    try:
        blob = (folder / "tokenizer.json").read_bytes()
        settings = _json(folder / "tokenizer_config.json")
        generation = _json(folder / "generation_config.json")
        template = folder / "chat_template.jinja"
        tokenizer = tokenizers.Tokenizer.from_buffer(blob)
        special = {name: _text(settings[name]) for name in _SPECIAL if settings.get(name)}
        eos = _eos_ids(generation.get("eos_token_id"))
        if not eos and (one := tokenizer.token_to_id(special.get("eos_token", ""))) is not None:
            eos = (one,)
        return TokenizerFiles(
            tokenizer_json=blob,
            chat_template=template.read_text() if template.is_file() else _template(settings),
            special_tokens=tuple(sorted(special.items())),
            eos_ids=eos,
        )
    except Exception as error:  # the library raises bare Exception for a malformed tokenizer
        raise EngineRefused("engine", f"{folder} is no tokenizer folder: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    loaded = json.loads(path.read_bytes())
    if not isinstance(loaded, dict):
        raise TypeError(f"{path.name} is no JSON object")
    return loaded


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _template(settings: dict[str, Any]) -> str:
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        template = next((one["template"] for one in template if one.get("name") == "default"), "")
    return str(template)


def _eos_ids(given: Any) -> tuple[int, ...]:
    if given is None:
        return ()
    return tuple(sorted({int(one) for one in given})) if isinstance(given, list) else (int(given),)

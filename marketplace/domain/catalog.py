"""Models that the market knows: what their manifest says, and how to turn messages into tokens and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tallystick.models.chat import Prompt
from tallystick.models.manifest import Manifest
from tallystick.models.tokenizer import Detokenizer
from tallystick.protocol.commitments import numerics_class_id
from tallystick.protocol.ids import ModelId


class Prompts(Protocol):
    """Makes a model's prompts. Both raise BadTemplate or BadTokenizer, and PromptTooLong."""

    async def chat(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Return the prompt for messages with `role` and `content`. Raises BadMessages too."""
        ...

    async def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, none where the engine shows none."""
        ...


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that can be asked for by `name`.

    `tokenizer` is None where the engine gives no token ids. It only reads
    them; `prompts` makes them, where a stranger's may take its time.
    """

    id: ModelId
    name: str
    manifest: Manifest
    tokenizer: Detokenizer | None
    prompts: Prompts
    admitted_at_ms: int
    eos_ids: frozenset[int] = field(init=False)
    numerics_class: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "eos_ids", frozenset(self.manifest.eos_ids))
        object.__setattr__(self, "numerics_class", numerics_class_id(self.manifest.numerics))

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.manifest.context_length


def free_name(wanted: str, model_id: ModelId, taken: Mapping[str, object]) -> str:
    """Return the name that a model goes by: its own, or with the start of its id where that is taken."""
    if wanted not in taken:
        return wanted
    return f"{wanted}@{model_id.hex()[:12]}"

"""Models that the market knows: what their manifest says, and how to turn messages into tokens and back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tallystick.models.manifest import Manifest
from tallystick.models.tokenizer import Tokenizer
from tallystick.protocol.commitments import numerics_class_id
from tallystick.protocol.ids import ModelId

RenderChat = Callable[[Sequence[Mapping[str, str]]], str]
"""Return the prompt for a list of messages with `role` and `content`. Raises BadTemplate or BadMessages."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that can be asked for by `name`. `tokenizer` is None where the engine gives no token ids."""

    id: ModelId
    name: str
    manifest: Manifest
    tokenizer: Tokenizer | None
    render_chat: RenderChat
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

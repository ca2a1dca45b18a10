"""Nodes that call a request one that cannot be served: when they are believed, and who was wrong.

Any consumer can send what no engine takes, so one such refusal says nothing against a node. Two operators
that refuse the same job are believed, and the consumer is told; in some jobs a third is asked all the same,
so that two in league do not get far. Whoever refused what another node then did was wrong, and it counts.
"""

from dataclasses import dataclass, field
from typing import Final

from marketplace.domain.errors import TurnedDown
from marketplace.domain.ports.link import NodeView
from tallystick.protocol.ids import Address

FAULTS: Final = {
    "request": "does not take it as it is; change its parameters, or the messages",
    "too_long": "finds it too long; shorten it, or lower max_tokens",
}
"""Codes of `frames.Failed` that find the fault in the request, and what the consumer is told."""


@dataclass(slots=True)
class Refusals:
    """The nodes that refused one job; operators that agree are believed from `enough` on."""

    enough: int = 2
    _said: list[tuple[NodeView, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._said)

    def add(self, node: NodeView, code: str) -> None:
        """Note that `node` finds the fault in the request."""
        self._said.append((node, code))

    @property
    def operators(self) -> frozenset[Address]:
        """Whose nodes have refused."""
        return frozenset(node.operator for node, _ in self._said)

    @property
    def is_believed(self) -> bool:
        """Whether nobody else needs to be asked."""
        return len(self.operators) >= self.enough

    def contradicted(self) -> list[Address]:
        """Return the nodes that were wrong, now that another one delivers; they are forgotten here."""
        wrong, self._said = [node.address for node, _ in self._said], []
        return wrong

    def for_consumer(self) -> TurnedDown:
        """Return what the consumer is told; nothing of what the engines said."""
        words = " and ".join(FAULTS[code] for code in sorted({code for _, code in self._said}))
        who = "the only operator" if len(self.operators) == 1 else f"each of {len(self.operators)} operators"
        return TurnedDown(f"This request was turned down: {who} that was asked {words}. Nothing was charged.")

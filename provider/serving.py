"""A model that the agent serves: its engine, and the price and pause that its owner set."""

from provider.config import ModelConfig
from provider.engines.base import Engine
from provider.plan import Served
from tallystick.models.manifest import model_id
from tallystick.protocol.frames import ModelOffer
from tallystick.protocol.ids import ModelId


class ServedModel:
    """One model of a running agent; its terms may be replaced while it runs."""

    def __init__(self, engine: Engine, terms: ModelConfig) -> None:
        self.engine = engine
        self.id: ModelId = model_id(engine.manifest_bytes)
        self.set_terms(terms)

    def set_terms(self, terms: ModelConfig) -> None:
        """Take other prices, slots or a pause. Raises ValueError for a price that is none."""
        self._input_price, self._output_price = terms.prices()
        self.terms = terms

    @property
    def name(self) -> str:
        """The name under which it is offered."""
        return self.terms.name or self.engine.manifest.name

    @property
    def slots(self) -> int:
        """How many jobs of this model may run at once."""
        return min(self.terms.slots, self.engine.slots)

    def offer(self) -> ModelOffer:
        """Return what the coordinator is told."""
        return ModelOffer(
            name=self.name,
            model_id=self.id,
            manifest=self.engine.manifest_bytes,
            input_price=self._input_price,
            output_price=self._output_price,
            slots=self.slots,
            paused=self.terms.paused,
        )

    def view(self, running: int) -> Served:
        """Return what `plan.decide` needs to know, with `running` jobs of this model under way."""
        return Served(
            input_price=self._input_price,
            output_price=self._output_price,
            slots=self.slots,
            running=running,
            paused=self.terms.paused,
            context_length=self.engine.manifest.context_length,
        )

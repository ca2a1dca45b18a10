"""The composition root: the only place that knows all parts.

chainside   the chain, and the coordinator's key
parts       what stands behind which port, and who gets whom
web         the routes, and the layers around them
running     in what order it all starts and stops
"""

from marketplace.app.chainside import Chainside, Height, read_key
from marketplace.app.running import Coordinator, coordinator

__all__ = ["Chainside", "Coordinator", "Height", "coordinator", "read_key"]

"""How the coordinator and its nodes talk: over websockets, or in one process."""

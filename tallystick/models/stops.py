"""Finding stop strings in text that arrives in pieces."""

from collections.abc import Sequence


class StopScanner:
    """Passes text on up to the stop string that is completed first, and holds back what may begin one.

    Of several that are completed by the same character, the longest is met. How the text is cut into pieces
    makes no difference to what is passed on in all.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(sorted({stop for stop in stops if stop}, key=len, reverse=True))
        self._longest = len(self._stops[0]) if self._stops else 0
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Return the text that is certain to belong to the answer, and the stop string met, if any.

        After a stop string is met the scanner is done: what follows it is dropped.
        """
        if not self._stops:
            return text, None
        text = self._held + text
        met = self._first_completed(text)
        if met is not None:
            end, stop = met
            self._held = ""
            return text[: end - len(stop)], stop
        kept = self._possible_beginning(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], None

    def flush(self) -> str:
        """Return what was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held

    def _first_completed(self, text: str) -> tuple[int, str] | None:
        found = [(at + len(stop), -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not found:
            return None
        end, _, stop = min(found)
        return end, stop

    def _possible_beginning(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

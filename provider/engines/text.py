"""The text of one job, as its ids come."""

from collections.abc import Sequence

from provider.engines.base import EngineJob, EngineRefused
from tallystick.models.stops import StopScanner
from tallystick.models.tokenizer import DetokenizeStream, Tokenizer


class AnswerText:
    """Turns ids into the text that the consumer has not got yet, up to a stop string.

    Resumed ids are read first, so that a stop string or a character that began before the resumption is
    completed after it; what was delivered already is left out.
    """

    def __init__(self, tokenizer: Tokenizer, job: EngineJob) -> None:
        self.met: str | None = None
        self._scanner = StopScanner(job.parameters.stop)
        self._to_skip = job.resume_text_bytes
        self._stream: DetokenizeStream = tokenizer.stream(job.resume_ids)
        self._carried = self._scan(self._stream.resumed)

    def push(self, ids: Sequence[int]) -> str:
        """Return the text that `ids` make certain. `met` is the stop string that they complete, if any."""
        carried, self._carried = self._carried, ""
        if self.met is not None:
            return carried
        return carried + self._scan(self._stream.push_all(ids))

    def finish(self) -> str:
        """Return the rest of the text, once no more ids come; it too may complete a stop string."""
        carried, self._carried = self._carried, ""
        if self.met is None:
            carried += self._scan(self._stream.finish())
        if self.met is None:
            carried += self._undelivered(self._scanner.flush())
        return carried

    def _scan(self, text: str) -> str:
        certain, self.met = self._scanner.push(text)
        return self._undelivered(certain)

    def _undelivered(self, text: str) -> str:
        if not self._to_skip or not text:
            return text
        raw = text.encode()
        skipped = min(self._to_skip, len(raw))
        self._to_skip -= skipped
        try:
            return raw[skipped:].decode()
        except UnicodeDecodeError as error:
            raise EngineRefused("engine", "resume_text_bytes ends inside of a character") from error

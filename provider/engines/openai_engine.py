"""Any OpenAI-compatible server on the provider's machine: vLLM, SGLang, llama.cpp, Ollama, LM Studio.

With a folder of tokenizer files, and a server that takes prompts in ids and returns ids (vLLM), tokens are
shown: prompts, counts and text can be checked, and an answer can be resumed elsewhere. Otherwise the model is
opaque: conversations travel as they are, the server's own template applies, and the server counts. In neither
case are the server's draws canonical, so the numerics class is "opaque".
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from provider.engines.base import (
    EngineBroken,
    EngineEnd,
    EngineEvent,
    EngineJob,
    EngineRefused,
    EngineTokens,
    EngineUnavailable,
)
from provider.engines.openai_wire import (
    MAX_LINE_BYTES,
    Piece,
    found_key,
    listed_models,
    one_token,
    pieces,
    request_by_ids,
    request_by_text,
    whole_body,
)
from provider.engines.text import AnswerText
from provider.engines.tokenizer_files import TokenizerFiles, read_tokenizer_files
from tallystick.models.manifest import OPAQUE_TOKENIZER, BadManifest, Manifest, canonical_json, check_manifest
from tallystick.models.tokenizer import HfTokenizer
from tallystick.protocol.parameters import MAX_STOP_CHARACTERS
from tallystick.protocol.receipts import Finish

MESSAGES_TEMPLATE: Final = "{{ messages | tojson }}"
"""The chat template of an opaque model: the conversation itself, for the server to render."""

_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=10, sock_read=300)
MAX_TEXT_BYTES_PER_TOKEN: Final = 1024
"""More text than this for a token that was asked for is none of a model's; the coordinator's bound, too."""
_REQUEST_FAULTS: Final = frozenset({400, 413, 422})
"""Statuses that find the fault in the request; others (a wrong key, a model that is gone) do not."""
_MOST_SAID: Final = 500
_TOO_LONG: Final = ("context length", "context_length", "context size", "too long", "maximum context")


class OpenAIEngine:
    """Serves `model` of the server at `url` (with its `/v1`), `slots` jobs at a time.

    `context_length` is needed where the server does not say it in its list of models. `tokenizer` is a folder
    with tokenizer.json and, for chats, the chat template. The key that the server asks for is best left out
    of the configuration: `api_key_env` names a variable that has it, `api_key_file` a file.
    """

    name = "openai"

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        api_key_file: Path | str | None = None,
        slots: int = 8,
        context_length: int | None = None,
        tokenizer: Path | str | None = None,
        model_name: str | None = None,
    ) -> None:
        if slots < 1:
            raise EngineRefused("engine", "an engine has at least one slot")
        self.slots = slots
        self._base_url = url.rstrip("/")
        self._model = model
        key = api_key or found_key(api_key_env, api_key_file)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._context_length = context_length
        self._files: TokenizerFiles | None = read_tokenizer_files(Path(tokenizer)) if tokenizer else None
        self._tokenizer = HfTokenizer(self._files.tokenizer_json) if self._files else None
        self._model_name = model_name or model
        self._free = asyncio.Semaphore(slots)
        self._session: aiohttp.ClientSession | None = None
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """What is served. Raises EngineBroken before `start`."""
        if self._manifest is None:
            raise EngineBroken("engine", "the engine has not started")
        return self._manifest

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest's canonical JSON. Raises EngineBroken before `start`."""
        return canonical_json(self.manifest)

    def blob(self, sha256: bytes) -> bytes | None:
        """Return tokenizer.json, if this is its SHA-256."""
        if self._files is None or sha256.hex() != self.manifest.tokenizer:
            return None
        return self._files.tokenizer_json

    async def start(self) -> None:
        """Ask for the server's models, and for a token if it is to show its ids.

        Raises EngineRefused if the model is not one of them or there are no ids, or EngineUnavailable.
        """
        self._session = aiohttp.ClientSession(
            timeout=_TIMEOUT, headers=self._headers, read_bufsize=MAX_LINE_BYTES // 2
        )
        try:
            self._manifest = self._described(await self._listed())
            check_manifest(self._manifest)
            if self._tokenizer is not None:
                await self._try_ids(self._tokenizer)
        except BadManifest as error:
            await self.close()
            raise EngineRefused("engine", f"this model cannot be offered: {error}") from error
        except (EngineRefused, EngineUnavailable, EngineBroken):
            await self.close()
            raise

    async def close(self) -> None:
        """Break off what runs, and the connections."""
        if self._session is not None:
            await self._session.close()

    async def generate(self, job: EngineJob) -> AsyncIterator[EngineEvent]:
        """Yield the job's text (and ids, if the server shows them), then its end.

        Closing the generator closes the request, by which servers stop. Raises EngineRefused,
        EngineUnavailable or EngineBroken.
        """
        if self._tokenizer is None and (job.resume_ids or job.resume_text_bytes):
            raise EngineRefused("engine", "this server cannot resume an answer: it does not show its tokens")
        events = self._by_text(job) if self._tokenizer is None else self._by_ids(job, self._tokenizer)
        async with self._free, aclosing(events):
            async for event in events:
                yield event

    async def _by_text(self, job: EngineJob) -> AsyncGenerator[EngineEvent]:
        path, body = request_by_text(self._model, job)
        finish, stop, usage, written = Finish.LENGTH, "", None, 0
        room = MAX_TEXT_BYTES_PER_TOKEN * (job.parameters.max_tokens + 1)
        async with self._stream(path, body) as stream:
            async for piece in stream:
                usage = piece.usage or usage
                if piece.text:
                    room -= len(piece.text.encode())
                    if room < 0:
                        raise EngineBroken("engine", "the server does not stop")
                    # A piece is a token or more, so until the server counts there are at least so many.
                    written = min(written + 1, job.parameters.max_tokens)
                    given, made = usage or (None, written)
                    yield EngineTokens(
                        job.first_position, (), piece.text, prompt_tokens=given, output_tokens=made
                    )
                if piece.finish is not None:
                    finish, stop = _opaque_finish(piece)
        if usage is None:
            raise EngineBroken("engine", "the server did not say how many tokens it used")
        yield EngineEnd(finish, stop, *usage)

    async def _by_ids(self, job: EngineJob, tokenizer: HfTokenizer) -> AsyncGenerator[EngineEvent]:
        limit = min(job.parameters.max_tokens, self.manifest.context_length - len(job.prompt_ids))
        if limit < 1:
            raise EngineRefused("too_long", f"a prompt of {len(job.prompt_ids)} tokens leaves no room")
        text = AnswerText(tokenizer, job)
        position = job.first_position
        finish = self._finish_before_start(job, limit, text)
        if finish is None:
            body = request_by_ids(self._model, job, limit - position)
            async with self._stream("/completions", body) as stream:
                async for piece in stream:
                    tokens, finish = self._accepted(piece, position, text)
                    position += len(tokens.ids)
                    if tokens.ids or tokens.text:
                        yield tokens
                    if finish is not None:
                        break
        if rest := text.finish():
            yield EngineTokens(position, (), rest)
        if text.met is not None:
            yield EngineEnd(Finish.STOP_STRING, text.met)
        else:
            yield EngineEnd(Finish.LENGTH if finish is None else finish)

    def _accepted(self, piece: Piece, position: int, text: AnswerText) -> tuple[EngineTokens, Finish | None]:
        """Return the tokens of a piece up to the one that ends the answer, and why it ends there."""
        if piece.text and not piece.ids:
            raise EngineBroken("engine", "the server does not return token ids (vLLM does, since 0.10.2)")
        written, ids, finish = "", piece.ids, _FINISH.get(piece.finish or "")
        for index, one in enumerate(piece.ids):
            written += text.push((one,))
            if one in self.manifest.eos_ids or text.met is not None:
                finish = Finish.EOS if text.met is None else Finish.STOP_STRING
                ids = piece.ids[: index + 1]
                break
        return EngineTokens(position, ids, written, piece.logprobs[: len(ids)]), finish

    def _finish_before_start(self, job: EngineJob, limit: int, text: AnswerText) -> Finish | None:
        if job.resume_ids and job.resume_ids[-1] in self.manifest.eos_ids:
            return Finish.EOS
        if text.met is not None:
            return Finish.STOP_STRING
        return Finish.LENGTH if job.first_position >= limit else None

    async def _try_ids(self, tokenizer: HfTokenizer) -> None:
        body = one_token(self._model, tokenizer.encode("Hello"))
        async with self._stream("/completions", body) as stream:
            if not any([piece.ids async for piece in stream]):
                raise EngineRefused(
                    "engine",
                    f"{self._base_url} does not return token ids (vLLM does, since 0.10.2); leave the "
                    "tokenizer out, and the server's own counts are used",
                )

    async def _listed(self) -> dict[str, Any]:
        async with self._request("GET", "/models") as response:
            models = listed_models(await whole_body(response))
        for model in models:
            if model.get("id") == self._model:
                return model
        names = ", ".join(str(model.get("id"))[:100] for model in models[:20]) or "none"
        raise EngineRefused("engine", f"{self._base_url} does not serve {self._model!r}; it serves: {names}")

    def _described(self, listed: dict[str, Any]) -> Manifest:
        context = (
            self._context_length
            or listed.get("max_model_len")
            or (listed.get("meta") or {}).get("n_ctx_train")
        )
        if not isinstance(context, int):
            raise EngineRefused(
                "engine",
                "the server does not say its context length; set context_length "
                "in the options (init: --context-length)",
            )
        files = self._files
        return Manifest(
            name=self._model_name,
            family="causal-lm",
            tokenizer=hashlib.sha256(files.tokenizer_json).hexdigest() if files else OPAQUE_TOKENIZER,
            chat_template=files.chat_template if files else MESSAGES_TEMPLATE,
            special_tokens=files.special_tokens if files else (),
            eos_ids=files.eos_ids if files else (),
            context_length=context,
            numerics="opaque",
        )

    @asynccontextmanager
    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[Piece]]:
        async with (
            self._request("POST", path, body) as response,
            aclosing(pieces(response.content)) as stream,
        ):
            yield stream

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None or self._session.closed:
            raise EngineBroken("engine", "the engine is closed")
        try:
            # A redirect is not followed: it would take prompts, and reach hosts, that its owner did not name.
            async with self._session.request(
                method, self._base_url + path, json=body, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    said = (await response.content.read(_MOST_SAID)).decode(errors="replace")
                    raise _refusal(response.status, said)
                yield response
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            raise EngineUnavailable("engine", f"{self._base_url} does not answer: {error}") from error
        except aiohttp.ClientError as error:
            raise EngineBroken("engine", f"{self._base_url} broke off: {error}") from error


_FINISH: Final = {"stop": Finish.EOS, "length": Finish.LENGTH}


def _opaque_finish(piece: Piece) -> tuple[Finish, str]:
    """Return why the server says it ended; "stop" is the end token, unless the stop string is named.

    What is longer than a stop string can be is none of the job's, and no frame could carry it.
    """
    if 0 < len(piece.stop) <= MAX_STOP_CHARACTERS:
        return Finish.STOP_STRING, piece.stop
    return _FINISH.get(piece.finish or "", Finish.EOS), ""


def _refusal(status: int, said: str) -> EngineRefused | EngineUnavailable | EngineBroken:
    if status < 400:
        return EngineRefused("engine", f"the server redirects ({status}); name the address that serves")
    if status in (429, 502, 503, 504):
        return EngineUnavailable("engine", f"the server answers {status}: {said}")
    if status >= 500:
        return EngineBroken("engine", f"the server answers {status}: {said}")
    code = "request" if status in _REQUEST_FAULTS else "engine"
    if any(phrase in said.lower() for phrase in _TOO_LONG):
        code = "too_long"
    return EngineRefused(code, f"the server answers {status}: {said}")

"""A real HTTP server that speaks OpenAI's protocol, with what vLLM adds to it; it answers with an echo.

Run as `python openai_server.py PORT` it is a server to try the engine on by hand.
"""

import asyncio
import json
import sys
from typing import Any

from aiohttp import web
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

EOS = 256


def tokenizer_json() -> str:
    """Return a tokenizer of bytes in which 256 ends an answer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: at for at, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer.to_str()


LISTS = {
    "no list": b"[7]",
    "odd list": b'{"data": [7]}',
    "deep list": b"[" * 100_000,
    "long list": bytes(5_000_000),
}
BROKEN_LINES = {"nonsense": b"{]", "nested": b"[" * 100_000, "long": b"x" * 2_000_000}


class EchoServer:
    """Says `said` to every prompt; `behaviour` makes it misbehave."""

    def __init__(self, said: str = "größer 🙂 END and more") -> None:
        self.said = said
        self.behaviour = "good"
        self.shows_ids = True
        self.counts_as_it_goes = False
        self.ignores_limit = False
        self.key = ""
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.closed_early = 0
        self._tokenizer = Tokenizer.from_str(tokenizer_json())

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_route("*", "/v1/elsewhere", self._elsewhere)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        if self.behaviour == "elsewhere":
            raise web.HTTPTemporaryRedirect("/v1/elsewhere")
        if self.behaviour in LISTS:
            return web.Response(body=LISTS[self.behaviour])
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        return web.json_response({"data": [{"id": "echo", "max_model_len": 400}, {"id": "bare"}]})

    async def _elsewhere(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, {}))
        return web.json_response({"data": [{"id": "echo", "max_model_len": 400}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((request.path, body))
        match self.behaviour:
            case "too long":
                return web.json_response(
                    {"error": {"message": "exceeds the maximum context length"}}, status=400
                )
            case "refused":
                return web.json_response({"error": {"message": "no such parameter"}}, status=400)
            case "gone":
                return web.json_response({"error": {"message": "no such model"}}, status=404)
            case "elsewhere":
                raise web.HTTPTemporaryRedirect("/v1/elsewhere")
            case "busy":
                return web.Response(status=503, text="overloaded")
            case "broken":
                return web.Response(status=500, text="oops")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._stream(response, body, is_chat=request.path.endswith("chat/completions"))
        except ConnectionError:
            self.closed_early += 1
        return response

    async def _stream(self, response: web.StreamResponse, body: dict[str, Any], *, is_chat: bool) -> None:
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        answer = [*self._tokenizer.encode(self.said).ids, EOS]
        if isinstance(prompt, list):
            # The prompt's ids carry what was said before, if the job was resumed: go on behind it.
            said_before = prompt[prompt.index(EOS) + 1 :] if EOS in prompt else []
            answer = answer[len(said_before) :]
        finish = "stop" if len(answer) <= body["max_tokens"] else "length"
        ids = answer if self.ignores_limit else answer[: body["max_tokens"]]
        await response.write(b": comment\r\n\r\n")
        sent = 0
        for at in range(0, len(ids), 3):
            chunk = ids[at : at + 3]
            whole = self._tokenizer.decode(ids[: at + 3]).rstrip("�")
            text, sent = whole[sent:], len(whole)
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            choice |= {"delta": {"content": text}} if is_chat else {"text": text}
            if body.get("return_token_ids") and self.shows_ids:
                choice["token_ids"] = chunk
            if "logprobs" in body:
                choice["logprobs"] = {
                    "token_logprobs": [-0.5] * len(chunk),
                    "top_logprobs": [{f"token_id:{one}": -0.5} for one in chunk],
                }
            usage = {"prompt_tokens": len(prompt), "completion_tokens": at + len(chunk)}
            await _send(response, {"choices": [choice], "usage": usage if self.counts_as_it_goes else None})
            while self.behaviour == "stall" and at:
                await response.write(b": wait\n\n")
                await asyncio.sleep(0.01)
            if self.behaviour == "cut":
                return
            if self.behaviour == "error":
                await _send(response, {"error": {"message": "out of memory"}})
                return
            if self.behaviour in BROKEN_LINES:
                await response.write(b"data: " + BROKEN_LINES[self.behaviour] + b"\n\n")
            while self.behaviour == "endless":
                await _send(response, {"choices": [choice | {"text": "x" * 1000}]})
        await _send(response, {"choices": [{"index": 0, "text": "", "finish_reason": finish}]})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        await _send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


if __name__ == "__main__":
    web.run_app(EchoServer().app(), host="127.0.0.1", port=int(sys.argv[1]))

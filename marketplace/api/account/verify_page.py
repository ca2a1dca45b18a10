"""`GET /verify`: where a mailed link leads.

The link is used only when a person presses the button, since mail scanners open links too. The token goes on
in the body of a POST, and the page sends nothing anywhere else.
"""

import base64
import hashlib
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

SCRIPT: Final = """
const button = document.querySelector("button"), out = document.querySelector("pre");
button.onclick = async () => {
  button.disabled = true;
  const token = new URLSearchParams(location.search).get("token");
  const answer = await fetch("/v1/accounts/verify", {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({token}),
  });
  const told = await answer.json();
  history.replaceState(null, "", location.pathname);
  out.textContent = answer.ok
    ? (told.api_key ? "Your API key, shown this once:\\n\\n" + told.api_key
                    : "You are signed in. Session token, for making API keys:\\n\\n" + told.token)
    : told.error.message;
};
"""
PAGE: Final = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tallystick: confirm your email</title>
<style>body {{ font: 1.1rem/1.5 system-ui; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere }}</style>
<h1>Confirm your email</h1>
<p>Press the button to open your account or to sign in. The link works once.</p>
<button>Confirm</button>
<pre role="status"></pre>
<script>{SCRIPT}</script>
"""
_HASH: Final = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; script-src 'sha256-{_HASH}'; style-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def verify_page_routes() -> list[BaseRoute]:
    """Return the route."""

    async def page(_: Request) -> Response:
        return HTMLResponse(PAGE, headers=HEADERS)

    return [Route("/verify", page, methods=["GET"])]

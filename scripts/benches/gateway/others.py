"""The gateways beside ours, installed on demand at pinned versions, each as its documentation advises.

    LiteLLM   LITELLM_MODE=PRODUCTION, LITELLM_LOG=ERROR, one uvicorn worker on uvloop and httptools, aiohttp
              upstream, a master key, no database: nothing is metered, held or kept
    Portkey   node build/start-server.js --headless, NODE_ENV=production: no keys of its own, nothing is kept

Neither needs the internet when it runs; LiteLLM takes its price list from its own package.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import httpx

from scripts.benches.gateway.machine import GATEWAY_CORE, LOAD_CORE, Crew, module
from scripts.benches.gateway.ours import Target
from scripts.demo_market.processes import DemoFailed, free_port

LITELLM: Final = "1.106.0"
PORTKEY: Final = "1.15.2"
PY_SPY: Final = "0.4.3"
KEY: Final = "sk-of-no-worth"
LITELLM_CONFIG: Final = """\
model_list:
  - model_name: echo
    litellm_params: {{model: openai/echo, api_base: "{upstream}/v1", api_key: none}}
litellm_settings:
  set_verbose: false
  request_timeout: 600
general_settings:
  master_key: {key}
"""


def start_upstream(crew: Crew) -> tuple[str, int]:
    """Start the server that the others pass requests to; return its address and process."""
    port = free_port(9180)
    process = crew.start("upstream", module("upstream", "--port", str(port)), core=LOAD_CORE)
    url = f"http://127.0.0.1:{port}"
    crew.wait_for("the upstream's start", lambda: _answers(f"{url}/v1/models", ()))
    return url, process


def start_litellm(crew: Crew, home: Path, upstream: tuple[str, int]) -> Target:
    """Start LiteLLM's proxy."""
    folder = install_litellm(home)
    config = home / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(upstream=upstream[0], key=KEY))
    port = free_port(9181)
    process = crew.start(
        "litellm",
        [
            *(str(folder / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"),
            *("--port", str(port), "--num_workers", "1", "--telemetry", "False"),
        ],
        core=GATEWAY_CORE,
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "PYTHONPATH": "",
        },
    )
    url, header = f"http://127.0.0.1:{port}", f"authorization: Bearer {KEY}"
    crew.wait_for("LiteLLM's start", lambda: _answers(f"{url}/v1/models", (header,)), 300)
    return Target(
        "LiteLLM", f"{url}/v1/chat/completions", (header,), "echo", "echo", process, (upstream[1],), LITELLM
    )


def start_portkey(crew: Crew, home: Path, upstream: tuple[str, int]) -> Target:
    """Start Portkey's gateway."""
    folder = install_portkey(home)
    port = free_port(9182)
    process = crew.start(
        "portkey",
        ["node", str(folder / "build" / "start-server.js"), f"--port={port}", "--headless"],
        core=GATEWAY_CORE,
        environment={"NODE_ENV": "production", "PORT": str(port)},
    )
    url = f"http://127.0.0.1:{port}"
    headers = (
        f"authorization: Bearer {KEY}",
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: {upstream[0]}/v1",
    )
    crew.wait_for("Portkey's start", lambda: _answers(f"{url}/", ()), 120)
    return Target(
        "Portkey", f"{url}/v1/chat/completions", headers, "echo", "echo", process, (upstream[1],), PORTKEY
    )


def install_litellm(home: Path) -> Path:
    """Return a virtual environment with LiteLLM's proxy, made if it is not there (minutes)."""
    return _venv(home / "litellm", f"litellm[proxy]=={LITELLM}")


def install_py_spy(home: Path) -> Path:
    """Return the profiler's program, installed if it is not there."""
    return _venv(home / "py-spy", f"py-spy=={PY_SPY}") / "bin" / "py-spy"


def install_portkey(home: Path) -> Path:
    """Return the folder of Portkey's gateway, installed if it is not there."""
    folder = home / "portkey"
    package = folder / "node_modules" / "@portkey-ai" / "gateway"
    ready = folder / f"READY-{PORTKEY}"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        _run(["npm", "install", "--no-audit", "--no-fund", f"@portkey-ai/gateway@{PORTKEY}"], folder)
        ready.touch()
    return package


def _venv(folder: Path, requirement: str) -> Path:
    ready = folder / f"READY-{requirement.partition('==')[2]}"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], folder.parent)
        _run([str(folder / "bin" / "pip"), "install", "-q", requirement], folder.parent)
        ready.touch()
    return folder


def _run(command: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(f"{' '.join(command)} failed:\n{done.stderr[-1500:]}")


def _answers(url: str, headers: tuple[str, ...]) -> bool | None:
    try:
        said = httpx.get(url, headers=dict(one.split(": ", 1) for one in headers), timeout=5, trust_env=False)
    except httpx.TransportError:
        time.sleep(0.3)
        return None
    return True if said.status_code < 500 else None

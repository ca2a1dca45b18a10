"""Jobs, ways to run them, and small models with random weights that run as the real ones do."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from provider.engines.base import EngineEnd, EngineEvent, EngineJob, EngineTokens
from tallystick.protocol.frames import TokenLogprob
from tallystick.protocol.parameters import Parameters


@dataclass
class Answer:
    """What a job gave in all."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: EngineEnd | None = None


async def collect(events: AsyncIterator[EngineEvent]) -> Answer:
    """Run a job to its end; its positions must follow each other."""
    answer = Answer()
    at: int | None = None
    async for event in events:
        assert answer.end is None, "nothing follows the end"
        match event:
            case EngineEnd():
                answer.end = event
            case EngineTokens(position, ids, text, logprobs):
                assert at is None or at == position
                at = position + len(ids)
                answer.ids += ids
                answer.text += text
                answer.logprobs += logprobs
    assert answer.end is not None
    return answer


def make_job(prompt_ids: tuple[int, ...], *, seed: int = 0, **overrides: Any) -> EngineJob:
    """Return a job; parameters by their names, everything else too."""
    names = set(Parameters.__struct_fields__)
    parameters = Parameters(**{name: overrides.pop(name) for name in names & set(overrides)})
    fields: dict[str, Any] = {
        "job_id": bytes(32),
        "attempt": 0,
        "prompt_ids": prompt_ids,
        "prompt_text": "",
        "parameters": parameters,
        "job_seed": seed.to_bytes(32, "big"),
    }
    return EngineJob(**(fields | overrides))


@pytest.fixture
def job() -> Callable[..., EngineJob]:
    return make_job


@pytest.fixture
def run() -> Callable[[AsyncIterator[EngineEvent]], Any]:
    return collect


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as a hub gives them: "plain" can be batched, "sliding" cannot."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    # Two threads on matrices this small wait for each other longer than they compute.
    torch.set_num_threads(1)
    folders = {}
    for name, sliding_window in (("plain", None), ("sliding", 8)):
        folder = tmp_path_factory.mktemp(f"tiny-{name}")
        torch.manual_seed(11)
        config = transformers.MistralConfig(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=160,
            sliding_window=sliding_window,
            bos_token_id=257,
            eos_token_id=256,
            initializer_range=0.6,
        )
        transformers.MistralForCausalLM(config).save_pretrained(folder)
        _byte_tokenizer(transformers).save_pretrained(folder)
        folders[name] = folder
    return folders


def _byte_tokenizer(transformers: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: at for at, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|start|>", special=True)])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|start|>"
    )
    wrapped.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    return wrapped

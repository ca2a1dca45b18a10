"""A model is described by what was kept of it, without loading it, and by nothing that has changed since."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
from provider.commands.describing import described
from provider.config import ModelConfig
from provider.engines.base import EngineRefused
from provider.engines.transformers_engine import TransformersEngine
from provider.engines.transformers_engine.ready import describe
from provider.loading import make_engine
from tallystick.models.manifest import canonical_json

# GGUF readers and converters of other libraries.
pytestmark = pytest.mark.filterwarnings("default")

WITHOUT_TORCH = """
import asyncio, sys
from provider.engines.transformers_engine.ready import describe
from tallystick.models.manifest import canonical_json
model, cache = sys.argv[1:]
sys.stdout.buffer.write(canonical_json(asyncio.run(describe(model, cache_dir=cache))))
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


@pytest.fixture
def folder(tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the model, to change."""
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in tiny_models["plain"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def terms(folder: Path, tmp_path: Path) -> ModelConfig:
    options = {"threads": 1, "device": "cpu", "cache_dir": str(tmp_path / "cache")}
    return ModelConfig(engine="transformers", model=str(folder), name="mine", options=options)


async def test_the_description_is_that_of_the_engine(terms: ModelConfig) -> None:
    found = await described(terms)
    engine = make_engine(terms)
    assert isinstance(engine, TransformersEngine)
    await engine.start()
    assert engine.manifest_bytes == canonical_json(found)
    await engine.close()
    assert found.name == "mine"


async def test_a_model_known_before_is_described_without_the_libraries_that_run_it(
    folder: Path, tmp_path: Path
) -> None:
    found = await describe(str(folder), cache_dir=tmp_path / "cache")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder), str(tmp_path / "cache")]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)  # noqa: ASYNC221 - alone
    assert told.stdout == canonical_json(found)


async def test_another_template_is_another_model(folder: Path, tmp_path: Path) -> None:
    before = await describe(str(folder), cache_dir=tmp_path / "cache")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} {{ bos_token }}")
    after = await describe(str(folder), cache_dir=tmp_path / "cache")
    assert after.chat_template == "{{ messages[0].content }} {{ bos_token }}" != before.chat_template
    assert after.weights == before.weights


@pytest.mark.parametrize("file", ["tokenizer.json", "manifest.json"])
async def test_what_is_kept_and_damaged_is_not_believed(folder: Path, tmp_path: Path, file: str) -> None:
    await describe(str(folder), cache_dir=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob(f"*/{file}")
    kept.write_bytes(kept.read_bytes()[:-20])
    with pytest.raises(EngineRefused, match=str(kept.parent)):
        await describe(str(folder), cache_dir=tmp_path / "cache")


async def test_a_wrong_dtype_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(EngineRefused, match="int3"):
        await describe(str(tmp_path / "nothing"), dtype="int3")


async def test_a_first_look_at_a_gguf_says_one_line_and_a_second_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.gguf"
    _write_gguf(file)
    terms = ModelConfig(
        engine="transformers", model=str(file), options={"cache_dir": str(tmp_path / "cache")}
    )
    first = await described(terms)
    said = capfd.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said.err
    assert "tiny" in said.err
    assert first.numerics == "gguf-f32/fp32"
    assert await described(terms) == first
    assert capfd.readouterr() == ("", "")


def _write_gguf(path: Path) -> None:
    """Write a llama of one layer whose tokens are bytes."""
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    width, wide, vocabulary = 32, 64, [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id):
        add(257)
    random = np.random.default_rng(3)
    shapes = {
        "token_embd": (len(vocabulary), width),
        "output": (len(vocabulary), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (wide, width),
        "blk.0.ffn_up": (wide, width),
        "blk.0.ffn_down": (width, wide),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

import platform

import pytest

torch = pytest.importorskip("torch")
from provider.engines.transformers_engine.linear import use_onednn  # noqa: E402 — needs torch


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 33])
def test_the_other_library_computes_the_same(rows: int) -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(40, 70), torch.nn.ReLU(), torch.nn.Linear(70, 9, bias=False))
    model.requires_grad_(False)
    given = torch.randn(2, rows, 40)
    with torch.inference_mode():
        expected = model(given)
        if platform.machine() == "x86_64" and torch.backends.mkldnn.is_available():
            assert use_onednn(model) == 2
        torch.testing.assert_close(model(given), expected, rtol=1e-5, atol=1e-5)


def test_layers_in_bf16_are_left_alone() -> None:
    assert use_onednn(torch.nn.Sequential(torch.nn.Linear(4, 4)).to(torch.bfloat16)) == 0

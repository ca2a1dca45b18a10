"""Linear layers through oneDNN with packed weights, on x86 CPUs in float32.

There `torch.nn.functional.linear` goes to MKL, which on an AMD EPYC took about 1.9 times as long for one row,
1.5 for eight, and 1.7 for a prompt of 60. With weights packed for eight rows oneDNN needs 0.6 to 0.7 of its
own time for eight, 0.7 to 0.85 for a prompt, and 0.73 (the vocabulary) to 1.16 for one. Elsewhere, and in
bf16, torch takes the better way by itself.
"""

import platform
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

_ROWS: Final = 8
"""The number of rows that weights are packed for; any other number works too."""


def use_onednn(model: nn.Module) -> int:
    """Let the linear layers of `model` compute through oneDNN where that is faster; return how many do.

    Their weights are packed in place: the model computes, and is no longer good for anything else.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    if (operators := _operators()) is None:
        return 0
    compute, pack = operators
    changed = 0
    for module in model.modules():
        if type(module) is nn.Linear and _is_plain(module.weight):
            # A weight that an embedding shares stays there as it is.
            module.weight = nn.Parameter(pack(module.weight.detach(), _ROWS), requires_grad=False)
            module.forward = partial(_linear, compute, module)  # type: ignore[method-assign]
            changed += 1
    return changed


def _linear(compute: Any, module: nn.Linear, rows: Tensor) -> Tensor:
    out: Tensor = compute(rows, module.weight, module.bias, "none", [], "")
    return out


def _operators() -> tuple[Any, Any] | None:
    """Return torch's fused linear operator and its packing, if it has them and they compute right."""
    try:
        compute = torch.ops.mkldnn._linear_pointwise.default
        pack = torch.ops.mkldnn._reorder_linear_weight.default
        rows, weight = torch.arange(12.0).view(1, 3, 4), torch.arange(8.0).view(2, 4) - 3
        for bias in (None, torch.tensor([0.5, -2.0])):
            got = compute(rows, pack(weight, _ROWS), bias, "none", [], "")
            if not torch.equal(got, nn.functional.linear(rows, weight, bias)):
                return None
    except (AttributeError, RuntimeError, TypeError):
        return None
    return compute, pack


def _is_plain(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()

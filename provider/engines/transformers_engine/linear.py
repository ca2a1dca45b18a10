"""Linear layers through oneDNN, on x86 CPUs in float32.

There `torch.nn.functional.linear` goes to MKL, which on an AMD EPYC took 1.3 times as long for one row, 1.6
for eight, and 2 for a prompt of 64. Elsewhere, and in bf16, torch takes the better way by itself.
"""

import platform
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def use_onednn(model: nn.Module) -> int:
    """Let the linear layers of `model` compute through oneDNN where that is faster; return how many do."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    operator = _operator()
    changed = 0
    for module in model.modules():
        if type(module) is nn.Linear and _is_plain(module.weight) and operator is not None:
            module.forward = partial(_linear, operator, module)  # type: ignore[method-assign]
            changed += 1
    return changed


def _linear(operator: Any, module: nn.Linear, rows: Tensor) -> Tensor:
    out: Tensor = operator(rows, module.weight, module.bias, "none", [], "")
    return out


def _operator() -> Any:
    """Return torch's fused linear operator if this version has it and it computes what it should."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        rows, weight = torch.arange(12.0).view(1, 3, 4), torch.arange(8.0).view(2, 4) - 3
        bias = torch.tensor([0.5, -2.0])
        for added in (None, bias):
            got = operator(rows, weight, added, "none", [], "")
            if not torch.equal(got, nn.functional.linear(rows, weight, added)):
                return None
    except (AttributeError, RuntimeError):
        return None
    return operator


def _is_plain(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()

"""Import torchvision beside a CPU build of torch, where the registry has only its CUDA-linked wheel.

Qwen3.5's processor needs torchvision's transforms, none of its compiled operators. But `import torchvision`
registers shape functions for `torchvision::nms`, and fails with "operator torchvision::nms does not exist"
when the wheel's library could not be loaded for want of CUDA. Declaring the two operators (without an
implementation) lets the import through. Never done where torch has CUDA, nor where the wheel's own
operators are there.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # dropping it would drop the declarations


def declare_missing() -> list[str]:
    """Make torchvision importable; returns what was done, for the evidence."""
    global _library
    import torch

    if _library is None:
        try:
            import torchvision  # noqa: F401

            return []
        except ImportError:
            return []
        except RuntimeError as e:
            if torch.version.cuda is not None or "torchvision::nms does not exist" not in str(e):
                raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    return ["declared torchvision's nms and qnms operators, missing beside CPU torch (not called)"]

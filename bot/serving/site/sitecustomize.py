"""Makes torchvision importable beside a CPU build of torch, and starts quicker: vLLM and each of its workers.

Python imports a module of this name at every start while its folder is on PYTHONPATH. torchvision registers
shape functions for its operators `nms` and `qnms` when it is imported; beside a CPU build of torch its
CUDA-linked wheel cannot load them, and the import ends with "operator torchvision::nms does not exist",
although nothing here calls them. They are declared then, and the import is made again. Nothing is done before
torchvision is imported (torch alone takes seconds), nor where the wheel's own operators are there.

Importing vLLM makes hundreds of thousands of objects that stay. At Python's own thresholds the collector
looks through them again and again, a sixth of a start's work; at these it does so a few times.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

GC_THRESHOLDS = (50_000, 20, 1_000)
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _Loader(SourceFileLoader):
    library: Any = None  # dropping it would drop the declarations

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except RuntimeError as e:
            if "torchvision::nms does not exist" not in str(e):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            self.declare()
            super().exec_module(module)

    @classmethod
    def declare(cls) -> None:
        import torch

        cls.library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            cls.library.define(schema)


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder)
gc.set_threshold(*GC_THRESHOLDS)

"""Lets SGLang run on a CPU of a machine without its kernels. Tests put this folder on ``PYTHONPATH``.

What then runs is SGLang's scheduler, cache and server with plain torch operations; its kernels are not tested.
"""

import importlib
import importlib.abc
import sys


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Builds of torchvision for CUDA lack operations elsewhere, and fail on import when they register forms of them."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            library = importlib.import_module("torch.library").Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.torchvision_library = library  # it lasts as long as somebody holds it


sys.meta_path.insert(0, _BeforeTorchvision())

"""Stands in for SGLang's kernels: every name can be imported, and none can be called."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(f"sgl_kernel.{name} is not on this machine")

    missing.__name__ = name
    return missing

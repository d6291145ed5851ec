"""How the engine gets a model: natively where it can, else with the library."""

import logging

import torch

from xinfer.engines.sentence_transformers.folder import ModelFolder, NotNative
from xinfer.engines.sentence_transformers.models import Model, pick_dtype
from xinfer.engines.sentence_transformers.options import Options
from xinfer.generation.judging import find_judge
from xinfer.ops import Kind

logger = logging.getLogger(__name__)


def load_model(kind: Kind, folder: ModelFolder, options: Options, device: torch.device, prompt: str) -> Model:
    """Load a model by the first way that can.

    Raises:
        ValueError: none can, or not the one that ``options`` insist on; says why.
    """
    judge = find_judge(folder.path) if kind is Kind.RERANK and options.implementation != "native" else None
    if judge is not None:
        from xinfer.engines.sentence_transformers.judge import JudgeReranker  # noqa: PLC0415 - imports transformers

        return JudgeReranker(folder, judge, options, device, prompt)
    if options.implementation != "library" and not options.trust_remote_code:
        try:
            return _load_native(kind, folder, options, device, prompt)
        except NotNative as reason:
            if options.implementation == "native":
                raise ValueError(f"{folder.path} cannot run natively: {reason}") from None
            logger.info("running %s with the sentence-transformers library: %s", folder.path, reason)
    from xinfer.engines.sentence_transformers import library  # noqa: PLC0415 - four seconds and 200 MiB, rarely needed

    loader = library.LibraryReranker if kind is Kind.RERANK else library.LibraryEmbedder
    return loader(folder, options, device, prompt)


def _load_native(kind: Kind, folder: ModelFolder, options: Options, device: torch.device, prompt: str) -> Model:
    from xinfer.engines.sentence_transformers import native  # noqa: PLC0415 - beside its alternative above

    dtype = pick_dtype(options.dtype, device)
    if kind is Kind.RERANK:
        return native.NativeReranker(folder.path, folder.rerank_plan(), device, dtype)
    plan = folder.embedding_plan(pooling=options.pooling, normalize=options.normalize)
    if prompt and not plan.pooling.include_prompt:
        raise NotNative("it leaves the prompt out of the pooling")
    return native.NativeEmbedder(folder.path, plan, device, dtype)

"""The engines that are tested with real processes: those that are importable here, or those that were asked for.

``make test-engines`` asks by XINFER_TEST_ENGINES, and says with XINFER_TEST_ENVIRONMENTS where their environments are.
"""

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.conftest import Site
from e2e.demo_chat import DEMO, UID

ASKED_FOR = os.environ.get("XINFER_TEST_ENGINES", "").split()
ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")
LOADING_S = 600
"""Longer than any engine needs for a model of some megabytes, on two cores that are busy."""
FOLDER = DEMO / "demo-chat"


@dataclass(frozen=True)
class Case:
    """An engine, and how a model is launched with it."""

    name: str
    library: str
    """Where it is importable, the engine can be used without an environment of its own."""
    source: Path = FOLDER
    options: dict[str, Any] = field(default_factory=dict)

    def launch(self, source: Path | None = None) -> dict[str, Any]:
        """The fields of a launch."""
        return {"model_engine": self.name, "model_path": str(source or self.source), **self.options}

    def start(self, site: Site, uid: str = UID, **more: Any) -> None:
        """Launch the model, and wait until it serves."""
        body = {"model_name": uid, **self.launch(), **more}
        answer = site.call("POST", "/v1/models", json=body, timeout=LOADING_S)
        assert answer.is_success, answer.text


COMPACT_JSON = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}
"""A model as small as this one writes blanks for ever where the grammar lets it."""
COMPACT_SGLANG = {"constrained_json_disable_any_whitespace": True}
SGLANG_STAND_INS = {"PYTHONPATH": str(Path(__file__).parents[1] / "fakes" / "sglang")}
"""Its kernels for CPUs are in no package registry; the demo model calls none of them."""
VLLM = {"memory_mib": 3500, "dtype": "float32", "enforce_eager": True}
SGLANG = {"memory_mib": 4000, "dtype": "float32", "envs": SGLANG_STAND_INS}

CHAT_CASES = (
    Case("transformers", "transformers"),
    Case("llama.cpp", "llama_cpp", FOLDER / "demo-chat.gguf"),
    Case("vllm", "vllm", options={**VLLM, **COMPACT_JSON}),
    Case("sglang", "sglang", options={**SGLANG, **COMPACT_SGLANG}),
    Case("mlx", "mlx_lm"),
)


def present(cases: Iterable[Case] = CHAT_CASES) -> list[Case]:
    """Those that are tested in this run."""
    if ASKED_FOR:
        return [case for case in cases if case.name in ASKED_FOR]
    return [case for case in cases if importlib.util.find_spec(case.library) is not None]


def is_present(engine: str) -> bool:
    """Whether an engine for language models is tested in this run."""
    return any(case.name == engine for case in present())


def share_environments(root: Path) -> None:
    """Let the home of a site in ``root`` have the environments that were built for the tests."""
    if ENVIRONMENTS:
        (root / "home").mkdir(parents=True)
        (root / "home" / "environments").symlink_to(ENVIRONMENTS)

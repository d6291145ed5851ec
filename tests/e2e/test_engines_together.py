"""Engines that pin the same libraries against each other, all serving at once on one worker."""

import asyncio
import importlib.util
import json

import pytest
from e2e.demo_chat import fields_of, golden, is_golden
from e2e.engine_cases import CHAT_CASES, is_present, share_environments

OWN = ("vllm", "sglang")
"""Each in an environment of its own."""
HERE = "transformers"
"""In the worker's Python."""

pytestmark = pytest.mark.skipif(
    not (all(map(is_present, OWN)) and importlib.util.find_spec(HERE)),
    reason="their environments are not built; make test-engines builds them",
)


def test_three_engines_with_incompatible_pins_answer_at_once(tmp_path, open_site):
    share_environments(tmp_path)
    with open_site(tmp_path) as site:
        site.local()
        for case in CHAT_CASES:
            if case.name in (*OWN, HERE):
                case.start(site, case.name)
        listed = json.loads(site.run("engine", "list", "--json").stdout)["environments"]
        used = {row["used_by"][0]: set(row["packages"]) for row in listed if row.get("used_by")}
        assert set(used) == {f"{engine}-0" for engine in OWN}
        names = [{package.partition("==")[0] for package in packages} for packages in used.values()]
        pins = [
            {package for package in packages if package.partition("==")[0] in names[0] & names[1]}
            for packages in used.values()
        ]
        assert pins[0] != pins[1], "the same libraries in other versions"

        async def ask_all() -> list[bool]:
            async def one(engine, entry) -> bool:
                answer = await client.chat.completions.create(**{**fields_of(entry), "model": engine})
                return is_golden(entry, answer.choices[0].message)

            async with site.async_client() as client:
                return await asyncio.gather(*[one(engine, entry) for entry in golden()[:30] for engine in (*OWN, HERE)])

        assert all(asyncio.run(ask_all()))

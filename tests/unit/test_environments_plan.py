"""What an environment holds, what it is called, and which Python a replica gets."""

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.engines.base import Available, Requirements
from xinfer.engines.llama_cpp.requirements import REQUIREMENTS as LLAMA_CPP
from xinfer.engines.sglang.requirements import REQUIREMENTS as SGLANG
from xinfer.engines.vllm.requirements import REQUIREMENTS as VLLM
from xinfer.errors import EnvironmentFailed, InvalidRequest
from xinfer.packages import distribution, spelled
from xinfer.spec import EnvironmentRequest
from xinfer.worker.environments.choice import Build, Choice, Foreign, Own, Ready, choose
from xinfer.worker.environments.plan import EnvironmentPlan, Machine, merged, plan_environment
from xinfer.worker.environments.store import EnvironmentRecord

CPU = Machine(python="cpython-311", platform="linux-x86_64", accelerator="cpu")
CUDA = Machine(python="cpython-311", platform="linux-x86_64", accelerator="cuda")
TOY = (
    Requirements(packages=("toy", "torch==2.13.0"), accelerator="cuda", disk_mib=9),
    Requirements(packages=("toy-cpu",), exclude=("Torch.Vision",), without_dependencies=("odd==1",), accelerator="cpu"),
)


def plan(machine: Machine = CPU, *extra: str, runtime: tuple[str, ...] = ("xoscar",)) -> EnvironmentPlan:
    return plan_environment("toy", TOY, machine, runtime=runtime, extra=extra)


def test_the_first_requirements_for_this_machine_are_taken() -> None:
    assert plan(CPU).packages == ("toy-cpu",)
    assert plan(CUDA).packages == ("toy", "torch==2.13.0")
    assert plan(CUDA).disk_mib == 9


def test_an_engine_without_requirements_for_this_machine_says_so() -> None:
    with pytest.raises(InvalidRequest, match=r"has none for a machine \(linux-x86_64\) with no NVIDIA card"):
        plan_environment("toy", TOY[:1], CPU)
    with pytest.raises(InvalidRequest, match="'echo' needs no environment"):
        plan_environment("echo", (), CPU)


def test_the_name_is_decided_by_everything_that_ends_up_in_it() -> None:
    same = {plan(CPU, "a", "b").name, plan(CPU, "b", " a ", "b").name}
    assert len(same) == 1, "neither order nor repetition counts"
    other_python = Machine(python="cpython-312", platform="linux-x86_64", accelerator="cpu")
    names = {
        plan().name,
        plan(CUDA).name,
        plan(other_python).name,
        plan(CPU, "a").name,
        plan(runtime=("xoscar>=1",)).name,
    }
    assert len(names) == 5
    assert all(name.startswith("toy-") for name in names)


def test_how_something_is_compiled_counts_and_where_nothing_is_said_names_stay_as_they_were() -> None:
    toy = Requirements(packages=("toy",))
    plain, compiled = (
        plan_environment("toy", (one,), CPU)
        for one in (toy, msgspec.structs.replace(toy, build_settings=("toy:flags=-O2",)))
    )
    assert compiled.build_settings == ("toy:flags=-O2",)
    assert plain.name == "toy-16a1197b156a"
    assert plain.name != compiled.name


def test_an_extra_package_replaces_what_the_engine_says_of_the_same_one() -> None:
    assert plan(CUDA, "Torch==2.14").packages == ("toy", "torch==2.14")
    replaced = plan(CPU, "odd==2", "torch_vision")
    assert replaced.without_dependencies == ()
    assert replaced.exclude == ()
    assert replaced.packages == ("toy-cpu", "odd==2", "torch-vision")


def test_what_is_given_as_it_is_goes_before_what_was_resolved() -> None:
    assert merged(["torch==2.13.0", "Odd_One==3"], ["odd-one==2"]) == ["torch==2.13.0", "odd-one==2"]


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("torch", "torch"),
        ("Flash_Attn>=2", "flash-attn"),
        ("transformers[torch] == 5.19.0 ; python_version > '3.9'", "transformers"),
        ("zope.interface~=6", "zope-interface"),
        ("toy @ https://example.org/toy-1-py3-none-any.whl", "toy"),
    ],
)
def test_names_of_packages_are_found(requirement: str, name: str) -> None:
    assert distribution(requirement) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--index-url=x",
        "-r wanted.txt",
        "wanted.txt",
        "../here",
        "a\nb",
        "/tmp/x",
        "torch transformers",
        "torch==latest",
        "torch==2.13.0 # the newest",
        "torch==",
        "torch;",
        "torch; rm -rf /",
        "torch; python_version",
        "torch; python_version < '3.13",
        "torch; python_version < '3.13' and",
    ],
)
def test_what_is_no_package_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no package") as refused:
        distribution(text)
    assert refused.value.param == "virtual_env_packages"


@pytest.mark.parametrize(
    ("written", "spelling"),
    [
        ("Flash_Attn >= 2 , < 3", "flash-attn>=2,<3"),
        (" transformers [torch, vision] ==5.19.0+cpu", "transformers[torch,vision]==5.19.0+cpu"),
        ("toy==1.*; python_version < '3.13'", "toy==1.*; python_version < '3.13'"),
        ("a; os_name=='nt' and (x in 'y' or 'z' not in x)", "a; os_name=='nt' and (x in 'y' or 'z' not in x)"),
        ("Toy @ file:///wheels/toy-1-py3-none-any.whl", "toy @ file:///wheels/toy-1-py3-none-any.whl"),
    ],
)
def test_one_meaning_has_one_spelling_and_so_one_environment(written: str, spelling: str) -> None:
    assert spelled(written) == spelled(spelling) == spelling
    assert plan(CPU, written, "h11").name == plan(CPU, "H11", spelling).name


@given(st.text(max_size=40))
def test_any_text_is_a_package_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert distribution(text)


@pytest.mark.parametrize("requirements", [VLLM, SGLANG, LLAMA_CPP])
@pytest.mark.parametrize("machine", [CPU, CUDA])
def test_the_requirements_of_our_engines_make_plans(requirements: tuple[Requirements, ...], machine: Machine) -> None:
    made = plan_environment("engine", requirements, machine)
    assert made.imports
    assert made.disk_mib > 500
    assert all(distribution(one) for one in (*made.packages, *made.without_dependencies))


HERE = Available(True, version="1")
NOT_HERE = Available(False, "toy is not installed")


def record(name: str, engine: str = "toy", **more: object) -> EnvironmentRecord:
    return EnvironmentRecord(name=name, engine=engine, version="1", machine=CPU, packages=(), **more)  # type: ignore[arg-type]


def pick(request: EnvironmentRequest, here: Available, *usable: EnvironmentRecord) -> Choice:
    return choose(request, "toy", here, usable, lambda: plan(CPU, *request.packages))


def test_an_engine_of_the_workers_python_is_used_as_it_is() -> None:
    assert pick(EnvironmentRequest(), HERE, record("toy-1")) == Own()
    assert pick(EnvironmentRequest(mode="none"), NOT_HERE, record("toy-1")) == Own(), "its replica says what is missing"


def test_otherwise_the_first_usable_environment_of_the_engine_is_used() -> None:
    usable = (record("other-1", "other"), record("toy-2"), record("toy-1"))
    assert pick(EnvironmentRequest(), NOT_HERE, *usable) == Ready("toy-2")
    assert pick(EnvironmentRequest(mode="own"), HERE, *usable) == Ready("toy-2")


def test_without_any_it_is_built_only_where_the_launch_allows_it() -> None:
    assert pick(EnvironmentRequest(build=True), NOT_HERE) == Build(plan())
    with pytest.raises(EnvironmentFailed, match=r"toy is not installed.*xinfer engine install toy"):
        pick(EnvironmentRequest(), NOT_HERE, record("other-1", "other"))


def test_packages_of_a_launch_need_exactly_their_environment() -> None:
    request = EnvironmentRequest(packages=("extra==1",), build=True)
    wanted = plan(CPU, "extra==1")
    assert pick(request, HERE, record("toy-1")) == Build(wanted)
    assert pick(request, HERE, record("toy-1"), record(wanted.name)) == Ready(wanted.name)


def test_a_python_that_is_named_goes_before_everything() -> None:
    assert pick(EnvironmentRequest(python="/opt/python"), HERE, record("toy-1")) == Foreign(Path("/opt/python"))

"""What the output of an installer says about how far it is."""

from xinfer.worker.environments.uv import InstallProgress

LINES = """\
Using Python 3.11.7 environment at: venv
Resolved 3 packages in 594ms
Downloading torch (180.0MiB)
Downloading triton (20.0 MiB)
   Building llama-cpp-python==0.3.36
 Downloaded triton
      Built llama-cpp-python==0.3.36
 Downloaded torch
Prepared 3 packages in 4m 02s
Installed 3 packages in 400ms
 + torch==2.13.0
"""


def test_downloads_and_compiling_are_followed_and_never_go_back():
    told: list[tuple[str, float]] = []
    progress = InstallProgress(3, lambda stage, fraction: told.append((stage, fraction)))
    for line in LINES.splitlines():
        progress.hear(line)
    stages = [stage for stage, _ in told]
    assert stages == [
        "downloading, 0 of 180 MiB, 1 large packages to go",
        "downloading, 0 of 200 MiB, 2 large packages to go",
        "compiling llama-cpp-python, which may take minutes",
        "downloading, 20 of 200 MiB, 1 large packages to go",
        "downloading, 200 of 200 MiB, 0 large packages to go",
        "installing 3 packages",
        "installed 3 packages",
    ]
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

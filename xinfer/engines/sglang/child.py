"""The child: ``python -m xinfer.engines.sglang.child ARGUMENTS``. Ties SGLang's server to the process that started it.

The key that its server asks for comes over stdin, because everybody can read a command line.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(starter: int) -> None:
    """Run SGLang's server, until it or the process ``starter`` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != starter:  # it ended before we asked to be told
            return
    key = sys.stdin.readline().strip()
    sys.argv = ["sglang.launch_server", *sys.argv[2:], f"--api-key={key}"]
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))

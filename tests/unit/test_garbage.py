"""Garbage: what a process loads before it serves is not looked at again, but cycles made later are still freed."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from xinfer import garbage

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

loaded = [[] for _ in range(1000)]
garbage.settle()
assert gc.get_freeze_count() > len(loaded), gc.get_freeze_count()
lost = cycle()
looks = 0
while lost() is not None:
    kept = [[] for _ in range(garbage.YOUNG_OBJECTS)]
    looks += 1
    assert looks < 5, "a cycle outlives looks at the young"
print("freed")
"""


def test_a_settled_process_still_frees_cycles() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.stdout == "freed\n", ended.stderr

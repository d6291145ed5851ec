"""Python's collector of reference cycles, in processes that load much once and then serve for days."""

import gc

YOUNG_OBJECTS = 20_000
"""New containers between two looks at the young ones. An answer that streams makes some hundred containers per chunk,
nearly all freed by counting; Python's own 700 means a look for every few chunks, for nothing."""
YOUNG_LOOKS = 20
"""Looks at the young before one at those that survived one, and of these before one at all."""


def settle() -> None:
    """What is loaded by now stays: never look at it again, and rarely at what is new.

    Saves a tenth of the CPU time of a replica's own process beside vLLM (``bench/engines.py``, 8 streams). What it
    costs is some MiB of cycles that wait for the next look.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, YOUNG_LOOKS)

"""Python's garbage collector kept out of the way of what the quantizers import.

Importing a quantizer makes hundreds of thousands of objects that stay to the end. Collections that run
meanwhile look through them again and again (a sixth of the import), and each later one does too: AutoRound
collects several times a layer, which was more than half of its run on the tiny base.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def set_aside() -> Iterator[None]:
    """What is imported in the block is not looked through by the collector, neither now nor later.

    What is garbage at the block's end is collected then; objects made afterwards are collected as ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()

"""Child processes of the server engines: they never outlive us."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_us(by: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """What `preexec_fn` runs so that the kernel kills the child with its parent thread; None where there is no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, by)

    return ask

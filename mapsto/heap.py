"""Memory that the allocator would give back to the kernel, kept for the next step."""

import ctypes
import functools


@functools.cache
def keep() -> None:
    """Have glibc keep freed blocks, from now on and for the whole process; elsewhere nothing happens.

    It gives large ones back to the kernel, and the page faults of getting them anew take up to a third of a
    convolutional network's time on a CPU.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**31 - 1)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):  # not glibc
        pass

"""How to know an error that says that memory does not suffice. The module imports nothing heavy."""

from __future__ import annotations

# What torch says, whose errors of a CPU's memory are of no kind of their own: of a GPU, its allocator, and oneDNN.
TEXTS = ("out of memory", "can't allocate memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on any device."""
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in TEXTS)
    return isinstance(error, MemoryError)

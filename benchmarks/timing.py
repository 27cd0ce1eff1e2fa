"""How the benchmarks time a function. It imports nothing of the package, of which `compare.py` takes another commit."""

import statistics
import time

import torch


def timed(function, *args):
    """Seconds, and the result."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def median_seconds(function, *args, num_rounds=3):
    """Of some rounds, after one that warms up."""
    function(*args)
    return statistics.median(timed(function, *args)[0] for _ in range(num_rounds))

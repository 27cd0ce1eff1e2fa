"""Products of some rows with a weight, by the kernel that is fastest on this machine.

torch has several on a CPU, and which one wins changes with the processor and the shape: on one AVX-512 machine of two
cores, one row times 3072 x 768 weights in float32 takes oneDNN 0.4 ms and MKL 1.0 ms, two rows 0.7 and 0.5 ms. On
another one, 529 rows take 12 and 24 ms. So they are timed when weights first meet a number of rows, where they are
large or the rows are many. What won is kept on disk, so that later processes compute the same: kernels round
differently.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hub.cache import cache_folder
from ..run_folder import read_object, write_once
from .packed import packed, part_of

# "usual" in this environment variable leaves the measurement out.
KERNELS_VARIABLE = "IVIDEOGPT_KERNELS"
CHOICES = ("measured", "usual")
FOLDER = "products"
# With fewer weights, and fewer weights times rows, kernels differ by less than it costs to choose.
FEW_WEIGHTS, FEW_PRODUCTS = 2**18, 2**21
# From here on, converting half-precision weights is faster than multiplying with them without instructions for it.
FEW_ROWS = 12
# Beyond, the order of the kernels stays what it is for so many rows.
MANY_ROWS, AS_MANY_ROWS = 128, 512
# With few rows, the time is that of fetching the weights from memory, where those of the other layers displaced them
# since. As many copies take turns.
BYTES_IN_TURN, MAX_COPIES = 64 * 2**20, 6
# With more rows, small weights take several turns, so that what is timed is not too short.
WEIGHTS_IN_TURN = 2**19
ROUNDS = 4  # the least of which counts: others may use the machine
CLEARLY = 1.1  # times as fast as the usual kernel, another one is taken
HOPELESS = 2.0  # times as slow as another one in the first round that counts, a kernel is not tried again

# -- the kernels ------------------------------------------------------------------------------------------------------


def _rows(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x.to(weight.dtype), weight).float()


def _columns(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(weight, x.to(weight.dtype).t()).t().float()


def _onednn(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.to(dtype or weight.dtype), weight, None, "none", [], "").float()


def _packed(x: Tensor, weight: Tensor) -> Tensor:
    return _onednn(x, packed(weight), weight.dtype)


def _converted(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(weight.float(), x.t()).t()


# Of x (m, in) float32 with weights (out, in): (m, out) float32.
KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rows": _rows,  # x times the weights
    "columns": _columns,  # the weights times the columns of x
    "onednn": _onednn,  # x times the weights, by oneDNN, where "rows" takes MKL
    "packed": _packed,  # the same with a copy of the weights in oneDNN's own order
    "converted": _converted,  # the weights in float32, where a processor has no instructions for half precision
}
MEASURED = ("rows", "columns", "onednn", "packed")
# Products of many rows as columns keep torch's attention from its fast kernel, and copies save them nothing.
MEASURED_WITH_MANY_ROWS = ("rows", "onednn")


def project(x: Tensor, weight: Tensor, first: int = 0, stop: int | None = None) -> Tensor:
    """Products (m, stop - first) of x (m, in) with rows ``first`` to ``stop`` of weights (out, in), all of one dtype;
    on a CPU, x and products are float32."""
    if x.device.type != "cpu":
        return F.linear(x, weight[first:stop])
    if torch.compiler.is_compiling():  # what is compiled gets the compiler's own kernels
        return KERNELS[usual_kernel(len(x), weight.dtype)](x, weight[first:stop])
    if (first, stop) != (0, None):
        weight = part_of(weight, first, stop) if _is_kept(weight) else weight[first:stop]
    return KERNELS[fastest_kernel(len(x), weight)](x, weight)


def usual_kernel(num_rows: int, dtype: torch.dtype) -> str:
    """The name of the kernel that wins on most machines."""
    if dtype == torch.float32:
        return "columns" if num_rows <= MANY_ROWS else "rows"
    return "rows" if num_rows < FEW_ROWS or has_fast_products(dtype) else "converted"


def _has_fast_products(name: str) -> bool:
    ask = getattr(torch.ops.mkldnn, name, None)  # a torch without oneDNN does not have it
    return ask is not None and bool(ask())


# Asked once and for all: a program that is compiled cannot ask.
_FAST_PRODUCTS = {
    torch.bfloat16: _has_fast_products("_is_mkldnn_bf16_supported"),
    torch.float16: _has_fast_products("_is_mkldnn_fp16_supported"),
}


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products in bfloat16 or float16."""
    return _FAST_PRODUCTS.get(dtype, False)


# -- the choice -------------------------------------------------------------------------------------------------------

# By number of rows, number of threads, shape and dtype of the weights, and whether a copy of them may be kept.
_chosen: dict[tuple[int, int, torch.Size, torch.dtype, bool], str] = {}


def fastest_kernel(num_rows: int, weight: Tensor) -> str:
    """The name of the fastest kernel for a number of rows and weights (out, in) on a CPU.

    Raises:
        ValueError: if the environment variable IVIDEOGPT_KERNELS is neither "measured" nor "usual".
    """
    is_small = weight.numel() < FEW_WEIGHTS and num_rows * weight.numel() < FEW_PRODUCTS
    if is_small or not _is_measured(weight.dtype):
        return usual_kernel(num_rows, weight.dtype)
    if num_rows > MANY_ROWS:
        num_rows = AS_MANY_ROWS
    elif num_rows > 16:  # to the next power of two
        num_rows = 1 << (num_rows - 1).bit_length()
    key = (num_rows, torch.get_num_threads(), weight.shape, weight.dtype, _is_kept(weight))
    if key not in _chosen:
        _chosen.setdefault(key, _find(num_rows, weight))  # another thread may have been first
    return _chosen[key]


def _is_kept(weight: Tensor) -> bool:
    """Whether the same weights come again: a slice of some is a new tensor each time."""
    return isinstance(weight, torch.nn.Parameter) and weight.is_contiguous()


def _candidates(num_rows: int, weight: Tensor) -> tuple[str, ...]:
    """The names of the kernels that are measured."""
    names = MEASURED if num_rows <= MANY_ROWS else MEASURED_WITH_MANY_ROWS
    return names if _is_kept(weight) else tuple(name for name in names if name != "packed")


@cache
def _is_measured(dtype: torch.dtype) -> bool:
    choice = os.environ.get(KERNELS_VARIABLE) or "measured"
    if choice not in CHOICES:
        raise ValueError(f"{KERNELS_VARIABLE} must be one of {', '.join(CHOICES)}, got {choice}")
    # Without instructions for half precision, kernels differ by far, and the usual one is right.
    return choice == "measured" and (dtype == torch.float32 or has_fast_products(dtype))


def _find(num_rows: int, weight: Tensor) -> str:
    """What this or another process measured first. Where nothing can be written, each process measures for itself."""
    product = (
        f"{num_rows} rows, {' x '.join(map(str, weight.shape))}, {weight.dtype}, {torch.get_num_threads()} threads"
    )
    candidates = _candidates(num_rows, weight)
    record = {"product": product, "kernels": list(candidates), "machine": _machine()}
    file = cache_folder() / FOLDER / f"{hashlib.sha256(repr(record).encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        measured = measure(num_rows, weight)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_once(file, record | {"kernel": measured})
        except OSError:
            return measured
    try:
        kernel = read_object(file).get("kernel")
    except OSError:
        kernel = None
    return kernel if kernel in candidates else usual_kernel(num_rows, weight.dtype)


def measure(num_rows: int, weight: Tensor) -> str:
    """The name of the kernel that wins for a number of rows and weights (out, in). It takes 0.1 to 1 seconds."""
    num_turns = BYTES_IN_TURN // weight.nbytes if num_rows <= 16 else WEIGHTS_IN_TURN // weight.numel()
    num_copies = max(1, min(MAX_COPIES, num_turns))
    weights = [torch.nn.Parameter(weight.detach().clone(), requires_grad=False) for _ in range(num_copies)]
    x = torch.ones(num_rows, weight.shape[1], dtype=torch.float32, device="cpu")
    names = set(_candidates(num_rows, weight))
    usual = usual_kernel(num_rows, weight.dtype)
    seconds: dict[str, float] = {}
    for number in range(1 + ROUNDS):
        for name in sorted(names):
            start = time.perf_counter()
            try:
                for copy in weights:
                    KERNELS[name](x, copy).contiguous()  # as what follows a product needs it
            except (RuntimeError, AttributeError):  # this torch, or this processor, does not have it
                names.remove(name)
                continue
            taken = time.perf_counter() - start
            seconds[name] = taken if number <= 1 else min(taken, seconds[name])  # the first one warms up
        if not names:
            return usual
        if number == 0:
            continue
        least = min(seconds[name] for name in names)
        names -= {name for name in names - {usual} if seconds[name] > HOPELESS * least}
    best = min(names, key=seconds.__getitem__)
    return usual if usual in names and seconds[usual] < CLEARLY * seconds[best] else best


@cache
def _machine() -> str:
    """What decides which kernel wins, and which there are: processor and torch."""
    lines: list[str] = []
    with suppress(OSError):  # other systems than Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    described = [known[name] for name in ("model name", "CPU part", "flags", "Features") if name in known]
    return ", ".join([platform.machine(), *described, torch.__version__, str(torch.backends.mkldnn.is_available())])

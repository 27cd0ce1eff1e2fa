"""Work that is counted, since speed is not tested: passes, exchanges with the device, memory, decoded frames.

A change that adds a pass, a wait for the device or a copy fails here. So does one that saves some: lower the number.
The world is `conftest.world`. A frame has 4 tokens, 5 with its slot; a prompt has 130. There are 2 layers of 4 heads.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ivideogpt_hf import Sampling
from ivideogpt_hf.decoding import frames as decoding
from ivideogpt_hf.decoding.sampling import uniforms
from ivideogpt_hf.decoding.tails import Tail
from tests.conftest import build_world, random_actions, random_frames

SAMPLING = Sampling(seed=0)
LAST_FRAME = {"outputs": ("frames",), "decode_steps": "last"}
# On a GPU the host waits for the result of each. The first ones are methods that no operation shows on a CPU.
READING_METHODS = {"cpu", "numpy", "tolist"}
READING_OPERATIONS = {"_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero"}


class Operations(TorchDispatchMode):
    """Counts "reads" by the host, "uploads" of Python's numbers to the device, and "bytes" of new storages."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.counts["reads"] += name in READING_OPERATIONS
        self.counts["uploads"] += name == "lift_fresh"
        new = _storages(result)
        self.counts["bytes"] += sum(new[key] for key in new.keys() - _storages((args, kwargs)).keys())
        return result


class Methods(TorchFunctionMode):
    """Counts "reads" by methods."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts["reads"] += getattr(func, "__name__", "") in READING_METHODS
        return func(*args, **(kwargs or {}))


def _storages(tree: Any) -> dict[int, int]:
    """Bytes of the storage of each tensor, by what tells storages apart."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {storage._cdata: storage.nbytes() for storage in storages}


@contextmanager
def counting(world) -> Iterator[Counter[str]]:
    """Counts what a world does inside: the above, "passes" through the layers, and "decoded" frames."""
    counts: Counter[str] = Counter()

    def run_layers(*args, **kwargs):
        counts["passes"] += 1
        return original(*args, **kwargs)

    def count_decoded(_, inputs):
        counts["decoded"] += len(inputs[0])

    original = decoding.run_layers
    hook = world.vq_model.cond_decoder.register_forward_pre_hook(count_decoded)
    with pytest.MonkeyPatch.context() as patch, Operations(counts), Methods(counts):
        patch.setattr(decoding, "run_layers", run_layers)
        yield counts
    hook.remove()


def work_of_steps(world, num_candidates, outputs, num_steps=2):
    """Counts of each step after the first one, which makes the buffer that the others write to."""
    state, actions, counted = (
        world.reset(random_frames(1, 2)).fork(num_candidates),
        random_actions(num_candidates, 3),
        [],
    )
    for _ in range(1 + num_steps):
        with counting(world) as counts:
            _, state = world.step(state, actions, sampling=SAMPLING, outputs=outputs)
        counted.append(counts)
    return counted[1:]


def work_of_rollout(world, num_frames, **options):
    with counting(world) as counts:
        world.rollout(random_frames(1, 2), random_actions(1, 8, num_frames, 3), sampling=SAMPLING, **options)
    return counts


# A step takes a pass for each token, the first of which reads the slot as well, and one for the reward, which somebody
# waits for. It reads whether the actions are finite, and, to decode, whether the lowest and the highest code are in
# range. It uploads the rows' seeds, streams, steps and ages, and, to decode, which rows belong to a context.
# The bytes are those of float32 on a CPU, in the second step.
@pytest.mark.parametrize(
    ("num_candidates", "outputs", "expected"),
    [
        (1, ("frames", "rewards"), {"passes": 5, "reads": 3, "uploads": 5, "decoded": 1}),
        (8, ("frames", "rewards"), {"passes": 5, "reads": 3, "uploads": 5, "decoded": 8}),
        (8, ("rewards",), {"passes": 5, "reads": 1, "uploads": 4, "bytes": 1104031}),
        (1, (), {"passes": 4, "reads": 1, "uploads": 4, "bytes": 124806}),
        (8, (), {"passes": 4, "reads": 1, "uploads": 4, "bytes": 938847}),
    ],
)
def test_the_work_of_a_step(world, num_candidates, outputs, expected):
    counts = work_of_steps(world, num_candidates, outputs)[0]
    if "decoded" in expected:
        del counts["bytes"]  # most are made by diffusers' blocks
    assert +counts == expected


def test_the_work_of_a_fork_of_8(world):
    """Each candidate has its own keys, values and tokens of the frame before. The context is not copied."""
    _, state = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=SAMPLING, outputs=())
    with counting(world) as counts:
        state.fork(8)
    tails = 8 * 2 * 2 * 4 * 5 * 8 * 4  # candidates, layers, keys and values, heads, positions, width of a head, bytes
    assert +counts == {"uploads": 1, "bytes": tails + 8 * 4 * 8}


# Beside the steps' passes there are that of the prompt, and one for the last reward: the others are read in the next
# frame's first pass. Inputs are checked once. Nothing but the frames that are asked for is decoded. Seeds and the rows
# of the fork are uploaded once; streams, steps and ages for every frame, but ages not for the first one.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"outputs": ("rewards",)}, {"passes": 1 + 5 * 4 + 1, "reads": 1, "uploads": 2 + 5 * 3 - 1}),
        (LAST_FRAME, {"passes": 1 + 5 * 4, "reads": 3, "uploads": 2 + 5 * 3 - 1, "decoded": 8}),
        ({"outputs": ("frames",)}, {"passes": 1 + 5 * 4, "reads": 3, "uploads": 2 + 5 * 3 - 1, "decoded": 8 * 5}),
    ],
)
def test_the_work_of_a_rollout_of_5_frames(world, options, expected):
    counts = work_of_rollout(world, 5, **options)
    del counts["bytes"]
    assert +counts == expected


@pytest.mark.parametrize(("options", "num_bytes"), [({"outputs": ("rewards",)}, 1029748), (LAST_FRAME, 1025844)])
def test_one_more_frame_of_a_rollout_reads_nothing(world, options, num_bytes):
    """So the host runs ahead of a GPU. The bytes are those of a fifth step, and of its room in the buffer."""
    four, five = (work_of_rollout(world, num_frames, **options) for num_frames in (4, 5))
    five.subtract(four)
    assert +five == {"passes": 4, "uploads": 3, "bytes": num_bytes}


@pytest.mark.parametrize("num_candidates", [1, 8])
def test_from_frame_to_frame_only_scores_grow(world, num_candidates):
    """Neither prompts nor keys and values of earlier frames are copied."""
    second, third = work_of_steps(world, num_candidates, ())
    scores = num_candidates * 4 * 2 * 5 * 5 * 4  # heads, layers, queries of a block, positions that were added, bytes
    mask = scores * 2 // 5 + 5 * (8 + 2)  # two of the queries are in one pass; the positions as int64, two rows of bool
    tokens = num_candidates * 4 * 8
    # The products with keys, what joins them with those of the prompt, and the softmax.
    assert third["bytes"] - second["bytes"] == 3 * scores + mask + tokens


@pytest.mark.parametrize("num_candidates", [1, 8])
def test_of_a_longer_prompt_only_scores_grow(num_candidates):
    sizes = [{"num_context_frames": count, "max_att_resolution": 8} for count in (2, 3)]
    counted = []
    for vq in sizes:
        world = build_world(vq, action_dim=3, predict_reward=True, max_position_embeddings=300)
        state = world.reset(random_frames(1, vq["num_context_frames"])).fork(num_candidates)
        actions = random_actions(num_candidates, 3)
        _, state = world.step(state, actions, sampling=SAMPLING, outputs=())
        with counting(world) as counts:
            world.step(state, actions, sampling=SAMPLING, outputs=())
        counted.append(counts["bytes"])
    scores = num_candidates * 4 * 2 * 5 * 65 * 4  # heads, layers, queries of a block, tokens of a context frame, bytes
    # As above. To fold the rows that share a prompt, the weights of the pass with two queries are copied.
    assert counted[1] - counted[0] == 3 * scores + (scores * 2 // 5 if num_candidates > 1 else 0)


@torch.inference_mode()
def test_guesses_that_are_right_save_passes():
    """A draft that is what comes anyway needs one pass for two tokens; one that is not, a pass for each. How many were
    right is read after each pass that tried some; there is none to try in the pass for the last token."""
    world = build_world({"num_dynamics_codes": 6}, action_dim=3, initializer_range=0.1)
    transformer, layout = world.transformer, world.layout
    prompts = torch.randint(0, 6, (1, layout.prompt_length), generator=torch.Generator().manual_seed(0))
    decoder = decoding.FrameDecoder(transformer, decoding.prefill(transformer, prompts), 1)
    zeros = torch.zeros(1, dtype=torch.int64)
    arguments = (prompts[:, -1], random_actions(1, 3), uniforms(zeros, zeros, zeros, layout.block_length))
    plain = decoder.decode(Tail(), *arguments, Sampling())
    for draft, num_passes, num_reads in ((plain.tokens, 2, 2), (plain.tokens + 1, 4, 3)):
        with counting(world) as counts:
            guessed = decoder.decode(Tail(), *arguments, Sampling(num_guesses=1), draft=draft)
        assert guessed.tokens.equal(plain.tokens)
        assert (counts["passes"], counts["reads"], guessed.num_right) == (num_passes, num_reads, 4 - num_passes)

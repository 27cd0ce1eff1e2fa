"""A world that several threads use at once gives each of them what it would have alone."""

import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ivideogpt_hf import Sampling, WorldModel, WorldState
from tests.conftest import build_world, random_actions, random_frames

SAMPLING = Sampling(seed=0)
NUM_THREADS, NUM_STEPS = 8, 4


@pytest.fixture
def eager_threads():
    """Threads that interrupt each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield threads
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def compiled_world():
    """Of the sizes of that in test_compiled.py, so that both share what the compiler keeps."""
    world = build_world(action_dim=3, predict_reward=True, num_key_value_heads=2)
    return WorldModel(world.vq_model, world.transformer, world.processor).compile()


def line(world, state, actions, barrier=None):
    """Tokens of a line of steps from a state, with actions (1, T, A)."""
    tokens = []
    if barrier is not None:
        barrier.wait()
    for i in range(actions.shape[1]):
        step, state = world.step(state, actions[:, i].expand(state.batch_size, -1), sampling=SAMPLING, outputs=())
        tokens.append(step.tokens)
    return torch.stack(tokens)


def all_lines(world, states, lines, threads):
    """Tokens of many lines at once, a thread each."""
    barrier = threading.Barrier(len(lines))
    running = [
        threads.submit(line, world, state, actions, barrier) for state, actions in zip(states, lines, strict=True)
    ]
    return [future.result() for future in running]


@pytest.mark.parametrize(("name", "num_branches"), [("world", 1), ("world", 3), ("compiled_world", 3)])
def test_one_state_that_threads_step_is_stepped_as_by_one(name, num_branches, request, eager_threads):
    world = request.getfixturevalue(name)
    lines = [random_actions(1, NUM_STEPS, 3, seed=seed) for seed in range(NUM_THREADS)]
    _, state = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=SAMPLING)
    state = state.fork(num_branches)
    alone = [line(world, state, actions) for actions in lines]
    for _ in range(3):
        _, state = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=SAMPLING)
        together = all_lines(world, [state.fork(num_branches)] * NUM_THREADS, lines, eager_threads)
        assert all(map(torch.equal, together, alone))


def test_a_step_within_a_step_leaves_it_as_it_is(world):
    """The moment of interruption is chosen here: between the passes of a frame."""
    _, state = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=SAMPLING)
    action = random_actions(1, 3, seed=1)
    alone, _ = world.step(state, action, sampling=SAMPLING)
    _, state = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=SAMPLING)
    passes = []

    def interrupt(*_):
        passes.append(0)
        if len(passes) == 2:
            world.step(state, random_actions(1, 3, seed=2) + 1, sampling=SAMPLING)

    hook = world.transformer.model.embed_tokens.register_forward_pre_hook(interrupt)
    try:
        interrupted, _ = world.step(state, action, sampling=SAMPLING)
    finally:
        hook.remove()
    assert interrupted.tokens.equal(alone.tokens)


def test_threads_that_go_through_compiled_and_plain_frames_share_a_state(compiled_world, eager_threads):
    plain = WorldModel(compiled_world.vq_model, compiled_world.transformer, compiled_world.processor)
    lines = [random_actions(1, NUM_STEPS, 3, seed=seed) for seed in range(NUM_THREADS)]
    start = compiled_world.reset(random_frames(1, 2))
    _, state = compiled_world.step(start, random_actions(1, 3), sampling=SAMPLING)
    alone = [line(plain, state, actions) for actions in lines]

    def one(number, barrier):
        if number % 4 == 3:  # reads the state otherwise than by stepping it
            barrier.wait()
            state_now = WorldState.cat([state.index([0, 0]), copy.deepcopy(state)]).index([1])
            return line(plain, state_now, lines[number])
        return line((plain, compiled_world)[number % 2], state, lines[number], barrier)

    for _ in range(3):
        _, state = compiled_world.step(start, random_actions(1, 3), sampling=SAMPLING)
        barrier = threading.Barrier(NUM_THREADS)
        running = [eager_threads.submit(one, number, barrier) for number in range(NUM_THREADS)]
        assert all(torch.equal(future.result(), tokens) for future, tokens in zip(running, alone, strict=True))


def test_two_compiled_worlds_exchange_states_in_threads(compiled_world, eager_threads):
    other = WorldModel(compiled_world.vq_model, compiled_world.transformer, compiled_world.processor).compile()
    worlds, lines = (compiled_world, other), [random_actions(1, NUM_STEPS, 3, seed=seed) for seed in range(2)]

    def zigzag(first, state, actions):
        tokens = []
        for i in range(NUM_STEPS):
            step, state = worlds[(first + i) % 2].step(state, actions[:, i], sampling=SAMPLING, outputs=())
            tokens.append(step.tokens)
        return torch.stack(tokens)

    start = compiled_world.reset(random_frames(1, 2))
    alone = [line(compiled_world, start, actions) for actions in lines]
    for _ in range(4):
        running = [eager_threads.submit(zigzag, first, start, lines[first]) for first in range(2)]
        assert all(torch.equal(future.result(), tokens) for future, tokens in zip(running, alone, strict=True))


def test_training_flags_come_back_when_the_last_rollout_ends(world):
    """One rollout ends while another one, which began later, goes on."""
    frames, actions = random_frames(1, 2), random_actions(1, 3, 3)
    networks = (world.vq_model, world.transformer)
    began, ended, flags = threading.Event(), threading.Event(), []

    def watch(i, _):
        began.set()
        assert ended.wait(60)
        flags.extend(module.training for network in networks for module in network.modules())

    def start_another(i, _):
        if i == 0:
            thread.start()
            assert began.wait(60)

    thread = threading.Thread(target=lambda: world.rollout(frames, actions, sampling=SAMPLING, on_step=watch))
    for network in networks:
        network.train()
    world.transformer.model.norm.eval()
    try:
        world.rollout(frames, actions, sampling=SAMPLING, on_step=start_another)
        ended.set()
        thread.join(60)
        assert flags
        assert not any(flags)
        still_off = [name for name, module in world.transformer.named_modules() if not module.training]
        assert still_off == ["model.norm"]
        assert all(module.training for module in world.vq_model.modules())
    finally:
        for network in networks:
            network.eval()


def test_layers_that_are_called_attend_as_before_when_the_last_thread_leaves(world, eager_threads):
    frames, lines = random_frames(1, 2), [random_actions(1, 2, 3, seed=seed) for seed in range(NUM_THREADS)]
    implementation = world.transformer.config._attn_implementation
    hook = world.transformer.model.layers[0].register_forward_hook(lambda _module, _inputs, output: output * 0.5)
    try:
        alone = [line(world, world.reset(frames), actions) for actions in lines]
        states = [world.reset(frames) for _ in lines]
        together = all_lines(world, states, lines, eager_threads)
    finally:
        hook.remove()
    assert all(map(torch.equal, together, alone))
    assert world.transformer.config._attn_implementation == implementation


def test_a_copy_of_a_state_goes_on_where_it_was(compiled_world):
    _, state = compiled_world.step(compiled_world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=SAMPLING)
    actions = random_actions(1, NUM_STEPS, 3)
    copies = [copy.deepcopy(state), pickle.loads(pickle.dumps(state))]
    alone = line(compiled_world, state, actions)
    assert all(line(compiled_world, one, actions).equal(alone) for one in copies)


def test_a_copy_of_a_compiled_world_has_programs_of_its_own(compiled_world):
    """Its weights are its own, too."""
    frames, actions = random_frames(1, 2), random_actions(1, 2, 3)
    before = compiled_world.rollout(frames, actions, sampling=SAMPLING)
    copied = copy.deepcopy(compiled_world)
    with torch.no_grad():
        copied.transformer.lm_head.weight.neg_()
    changed = copied.rollout(frames, actions, sampling=SAMPLING)
    plain = WorldModel(copied.vq_model, copied.transformer, copied.processor)
    assert changed.tokens.equal(plain.rollout(frames, actions, sampling=SAMPLING).tokens)
    assert compiled_world.rollout(frames, actions, sampling=SAMPLING).tokens.equal(before.tokens)

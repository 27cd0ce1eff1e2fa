"""Sessions in a folder: the next server goes on with them, or says what is wrong."""

import stat

import pytest

from ivideogpt_hf import Sampling, WorldState
from ivideogpt_hf.run_folder import read_object, write_json
from ivideogpt_hf.serving.saved_sessions import NUMBERS_PER_LIFE, open_saved
from ivideogpt_hf.serving.sessions import Sessions
from ivideogpt_hf.world.state import num_bytes_of
from tests.conftest import build_world, locked_elsewhere, random_actions, random_frames

LIMIT = 2**30


def new_sessions(**limits):
    return Sessions(**({"max_sessions": 4, "max_states": 8, "expires_after": 60} | limits))


@pytest.fixture
def saved(world, tmp_path):
    """A folder in which a session is saved: a state of two worlds, one after a step, branches of it, and another."""
    sessions = new_sessions()
    name = sessions.open()
    state = world.reset(random_frames(2, 2))
    _, after = world.step(state, random_actions(2, 3), sampling=Sampling(seed=1))
    for kept in (state, after, after.fork(3), world.reset(random_frames(1, 2, seed=5))):
        sessions.put(name, kept)
    sessions.drop(name, [0])
    with open_saved(tmp_path, world) as folder:
        folder.take_up(new_sessions(), LIMIT)
        folder.save(sessions)
    return tmp_path, name, sessions


def taken_up(world, folder, max_bytes=LIMIT, **limits):
    sessions = new_sessions(**limits)
    with open_saved(folder, world) as saved:
        saved.take_up(sessions, max_bytes)
    return sessions


def test_states_go_on_exactly(world, saved):
    folder, name, sessions = saved
    again = taken_up(world, folder)
    assert again.all_states()[name].keys() == {1, 2, 3}
    for number, state in sessions.all_states()[name].items():
        actions = random_actions(state.batch_size, 3, seed=7)
        (step, after), (wanted, wanted_after) = (
            world.step(s, actions, sampling=Sampling(seed=9)) for s in (again.get(name, number), state)
        )
        assert step.tokens.equal(wanted.tokens)
        assert step.frame.equal(wanted.frame)
        assert step.reward.equal(wanted.reward)
        assert (after.num_frames, after.streams) == (wanted_after.num_frames, wanted_after.streams)


def test_contexts_are_saved_once(world, saved):
    folder, name, _ = saved
    assert len(list((folder / "sessions" / name).glob("contexts-*.safetensors"))) == 2
    states = taken_up(world, folder).all_states()[name]
    assert states[1].contexts is states[2].contexts
    assert states[3].contexts is not states[1].contexts


def test_steps_are_saved_once_and_share_their_memory_again(world, tmp_path):
    """The keys and values of a step are those of the one before, and some more."""
    sessions = new_sessions(max_states=20)
    name = sessions.open()
    state = world.reset(random_frames(1, 2)).fork(3)
    for seed in range(4):
        _, state = world.step(state, random_actions(3, 3, seed=seed), sampling=Sampling(seed=seed))
        sessions.put(name, state)
    _, branch = world.step(sessions.get(name, 1), random_actions(3, 3, seed=9), sampling=Sampling(seed=9))
    for kept in (branch, WorldState.cat([state, sessions.get(name, 0)])):
        sessions.put(name, kept)
    with open_saved(tmp_path, world) as folder:
        folder.take_up(new_sessions(), LIMIT)
        folder.save(sessions)
    held = num_bytes_of(sessions.kept())
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < held
    again = taken_up(world, tmp_path, max_bytes=held, max_states=20)
    assert num_bytes_of(again.kept()) <= held
    for number, before in sessions.all_states()[name].items():
        actions = random_actions(before.batch_size, 3, seed=7)
        ends = [world.step(s, actions, sampling=Sampling(seed=8))[0] for s in (again.get(name, number), before)]
        assert ends[0].tokens.equal(ends[1].tokens)
        assert ends[0].log_prob.equal(ends[1].log_prob)


def test_more_bytes_than_the_server_keeps_are_refused_before_they_are_read(world, saved, monkeypatch):
    folder, name, sessions = saved
    monkeypatch.setattr("ivideogpt_hf.serving.saved_sessions.load_states", lambda *_: pytest.fail("they are read"))
    with pytest.raises(ValueError, match=r"saved states take \d+ bytes.*--max-state-bytes"):
        taken_up(world, folder, max_bytes=num_bytes_of(sessions.kept()) // 2)
    assert (folder / "sessions" / name).is_dir()


def test_a_session_that_has_not_changed_is_not_written_again(world, saved):
    folder, name, _ = saved
    sessions = new_sessions()
    with open_saved(folder, world) as again:
        again.take_up(sessions, LIMIT)
        before = {file.name: file.stat().st_ino for file in (folder / "sessions" / name).iterdir()}
        sessions.put(sessions.open(), world.reset(random_frames(1, 2)))
        again.save(sessions)
        assert {file.name: file.stat().st_ino for file in (folder / "sessions" / name).iterdir()} == before
        sessions.put(name, world.reset(random_frames(1, 2)))
        again.save(sessions)
    assert {len(states) for states in taken_up(world, folder).all_states().values()} == {1, 4}


def test_a_number_never_means_another_state(world, saved):
    """Not even if a server was killed, and what it gave since was not saved."""
    folder, name, _ = saved
    state = world.reset(random_frames(1, 2))
    given = [taken_up(world, folder).put(name, state) for _ in range(3)]
    assert given == [life * NUMBERS_PER_LIFE for life in (2, 3, 4)]


def test_only_its_owner_reads_it(saved):
    folder, name, _ = saved
    for path in (folder, folder / "sessions", folder / "sessions" / name):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_another_checkpoint_is_refused(saved):
    other = build_world(action_dim=3, predict_reward=True, vq={"seed": 1})
    with pytest.raises(FileExistsError, match="another server's sessions, they differ in checkpoint"):
        taken_up(other, saved[0])


def test_it_is_held_by_one_process(world, saved):
    with locked_elsewhere(saved[0]), pytest.raises(BlockingIOError, match="another process"):
        taken_up(world, saved[0])


@pytest.mark.parametrize(("limits", "message"), [({"max_states": 2}, "up to 3 states"), ({"max_sessions": 0}, "are 1")])
def test_more_than_the_server_may_have_is_refused(world, saved, limits, message):
    with pytest.raises(ValueError, match=f"{message}.* larger limits"):
        taken_up(world, saved[0], **limits)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def change(file, **fields):
    write_json(file, read_object(file) | fields)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder, session: cut(session / "tail-0.safetensors"), "tail-0.safetensors cannot be read"),
        (
            lambda folder, session: (session / "contexts-1.safetensors").unlink(),
            "contexts-1.safetensors cannot",
        ),
        (lambda folder, session: (session / "tokens.safetensors").unlink(), "tokens.safetensors cannot be read"),
        (lambda folder, session: (session / "states.json").unlink(), "states.json"),
        (
            lambda folder, session: change(session / "states.json", **{"9": {}}),
            "states.json is damaged: '9'",
        ),
        (
            lambda folder, session: change(session / "states.json", **{"1": {"contexts": "../0"}}),
            "states.json is damaged",
        ),
        (lambda folder, session: (folder / "lives.json").unlink(), "lives.json is missing"),
        (lambda folder, session: change(folder / "lives.json", count=-1), "lives.json is damaged"),
    ],
)
def test_damaged_files_are_named(world, saved, damage, message):
    folder, name, _ = saved
    damage(folder, folder / "sessions" / name)
    with pytest.raises(OSError, match=message):
        taken_up(world, folder)


def test_what_cannot_be_saved_leaves_what_was_saved(world, saved, monkeypatch):
    folder, name, sessions = saved
    with open_saved(folder, world) as again:
        monkeypatch.setattr("ivideogpt_hf.world.snapshots.save_file", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match=r"could not be saved .* full"):
            again.save(sessions)
    assert sorted(path.name for path in folder.iterdir()) == ["lives.json", "server.json", "sessions"]
    assert taken_up(world, folder).all_states()[name].keys() == {1, 2, 3}

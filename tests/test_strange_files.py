"""Whatever a file holds that anybody may have written, it is read, or refused by ValueError or OSError that names it.

Hypothesis writes files for each parser, with the same seed in every run. What once got through is kept as an example.
"""

import json
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from ivideogpt_hf import IVideoGPTForCausalLM, IVideoGPTVQModel, Sampling, WorldModel, WorldState, open_episodes
from ivideogpt_hf.checkpoints.layout import read_metrics
from ivideogpt_hf.data.clips.store import open_store
from ivideogpt_hf.data.clips.tokens import read_tokens_file
from ivideogpt_hf.data.episodes import Episode, episode_features, episode_to_row
from ivideogpt_hf.data.readers.lerobot import LeRobotReader
from ivideogpt_hf.evaluation.compare import comparison, read_results
from ivideogpt_hf.media.action_files import read_action_table
from ivideogpt_hf.planning.trials import Trial, _parsed
from ivideogpt_hf.run_folder import claim, parse_json, read_object
from ivideogpt_hf.settings import fill, read_options
from ivideogpt_hf.training.arguments import RunArguments
from ivideogpt_hf.training.callbacks import drop_entries_after
from ivideogpt_hf.training.run_checkpoints import problem_of
from tests.conftest import random_actions, random_frames

fuzzed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Values of JSON, with keys that our files have and numbers that are none of ours.
NAMES = """update step seed name splits shardLengths features fps weight_map version data training frechet success
best_of_samples validation/loss controller data_path sequence"""
KEYS = st.sampled_from(NAMES.split())
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([10**30, -(2**63), 3_000_000_000, 1e400, float("nan")]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=10,
)
TEXTS = st.one_of(VALUES.map(json.dumps), st.text(max_size=40), st.text('[]{}:,"1e-.&*!<|> \n', max_size=60))
CONTENTS = st.one_of(TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=40))
DEEP = b"[" * 100_000


def refused_or_read(read, *names):
    """What a parser reads; None where it refuses by a good error."""
    try:
        return read()
    except (ValueError, OSError) as error:
        message = str(error)
    if not any(str(name) in message for name in names):
        pytest.fail(f"names no file: {message}")
    return None


@settings(fuzzed, max_examples=25)
@given(content=CONTENTS)
@example(content=DEEP)
@example(content=b"9" * 5000)
@example(content=b"\xff")
@example(content=b"[]")
def test_json_of_runs_and_checkpoints(content, tmp_path):
    for file in ("metrics.json", "tokens.json", "results.json", "run.json", "manifest.json", "metrics.jsonl"):
        (tmp_path / file).write_bytes(content)
    readers = (read_metrics, read_tokens_file, problem_of, lambda folder: read_object(folder / "run.json"))
    for read in readers:
        refused_or_read(lambda read=read: read(tmp_path), tmp_path)
    refused_or_read(lambda: comparison([read_results(tmp_path)], []), tmp_path)
    refused_or_read(lambda: claim(tmp_path, "run.json", {"a": 1}, noun="run"), tmp_path)
    refused_or_read(lambda: drop_entries_after(tmp_path / "metrics.jsonl", 1), tmp_path)


@fuzzed
@given(line=TEXTS)
@example(line="[]")
@example(line='{"controller": []}')
@example(line="[" * 100_000)
def test_lines_of_trials(line):
    trials = refused_or_read(lambda: list(_parsed(line, "trials.jsonl, line 1")), "trials.jsonl, line 1")
    assert all(isinstance(trial, Trial) for trial in trials or [])


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@fuzzed
@given(content=st.one_of(CONTENTS, VALUES.map(lambda value: yaml.safe_dump(value).encode())))
@example(content=BOMB.encode())
@example(content=MERGES.encode())
@example(content=b"transformer_config: &a {b: *a}")
@example(content=b"{" * 5000)
@example(content=b"a: !!python/object/apply:os.system [id]")
@example(content=b"a: 2001-99-99")
@example(content=b"a: !!int x")
@example(content=b"{[1]: 2}")
@example(content=b"<<: 3")
@example(content=b"#" * 2**20)
def test_yaml(content, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    runs = refused_or_read(lambda: read_options(file), file)
    for run in (runs or {}).values():
        json.dumps(run, default=str)  # as a mapping is put on the command line
        refused_or_read(lambda run=run: fill(RunArguments, run, str(file)), file, "must be", "missing")


def table(cells):
    return "\n".join(",".join(row) for row in cells)


@fuzzed
@given(
    content=st.one_of(
        CONTENTS,
        st.lists(st.lists(st.sampled_from(["1", "-.5", "a", "", '"', "1e9999", "frame", "clip", "\0"]), max_size=4))
        .map(table)
        .map(str.encode),
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz"]),
)
@example(content=DEEP, suffix=".json")
@example(content=DEEP, suffix=".jsonl")
@example(content=b",".join([b"0.5"] * 1_000_000), suffix=".csv")
@example(content=b'{"a": 1}\n{"a": {"b": 1}}', suffix=".jsonl")
@example(content=b"[[]]", suffix=".json")
@example(
    content=b"\x93NUMPY\x01\x00\x46\x00{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 3), }" % 2**60,
    suffix=".npy",
)
def test_actions(content, suffix, tmp_path):
    file = tmp_path / f"actions{suffix}"
    file.write_bytes(content)
    refused_or_read(lambda: read_action_table(file), file)


@fuzzed
@given(content=CONTENTS)
@example(content=DEEP)
@example(content=b'{"name": "n", "splits": [{"name": "train", "shardLengths": ["3000000000"]}]}')
@example(content=b'{"name": "n", "splits": [{"name": "train", "shardLengths": ["-5"]}]}')
@example(content=b'{"name": "n", "splits": [{"name": "train", "shardLengths": [1e400]}]}')
def test_descriptions_of_tensorflow_datasets(content, tmp_path):
    pytest.importorskip("tfrecord")
    (tmp_path / "n-train.tfrecord-00000-of-00001").write_bytes(struct.pack("<QI", 4, 0) + b"x" * 8)
    for name in ("dataset_info.json", "features.json"):
        (tmp_path / name).write_bytes(content)
    refused_or_read(lambda: list(open_episodes(tmp_path, reader="rlds")), tmp_path)


@pytest.mark.parametrize("length", [2**40, 2**62, 2**63 + 5])
def test_a_record_that_is_longer_than_its_file(length, tmp_path):
    pytest.importorskip("tfrecord")
    (tmp_path / "x.tfrecord").write_bytes(struct.pack("<QI", length, 0) + b"x" * 20)
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        list(open_episodes(tmp_path, reader="rlds"))


@fuzzed
@given(content=CONTENTS)
@example(content=DEEP)
@example(content=b'{"codebase_version": "v3.0", "fps": 10, "features": 3, "data_path": 4}')
@example(content=b'{"codebase_version": "v3.0", "fps": 10, "features": {}, "data_path": "{chunk_index.__class__}"}')
@example(
    content=b'{"codebase_version": "v3.0", "fps": 10, "features": {"observation.image": 5}, "data_path": "../{x}"}'
)
def test_descriptions_of_lerobot(content, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "meta/episodes").mkdir(parents=True, exist_ok=True)
    (tmp_path / "meta/info.json").write_bytes(content)
    pq.write_table(pa.table({"episode_index": [0], "length": [3]}), tmp_path / "meta/episodes/0.parquet")
    refused_or_read(lambda: list(open_episodes(tmp_path, reader="lerobot")), tmp_path)


@pytest.mark.parametrize(
    "place", ["../x.parquet", "/etc/{chunk_index}", "data/../../x", "{other}", "{chunk_index.x}", 5]
)
def test_paths_of_lerobot_stay_in_its_folder(place, tmp_path):
    reader = object.__new__(LeRobotReader)
    reader.path, reader._info = tmp_path, {"data_path": place}
    with pytest.raises(ValueError, match=r"info\.json: data_path"):
        reader._file_at("data_path", chunk_index=0, file_index=0)


# -- containers: a real file with other bytes in some places -----------------------------------------------------------

EDITS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
)


def edited(content, edits):
    """Other content, or a file with other bytes at some places, each a fraction of the file."""
    if isinstance(edits, bytes):
        return edits
    content = bytearray(content)
    for place, value in edits:
        at = int(place * len(content))
        content[at : at + len(value)] = value
    return bytes(content)


@pytest.fixture(scope="module")
def parquet_file(tmp_path_factory):
    """A small data set in this package's schema, as one Parquet file."""
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    frames = np.zeros((3, 8, 8, 3), np.uint8)
    episode = Episode({"image": frames}, "a", "b", actions=np.zeros((2, 2), np.float32))
    table = pa.Table.from_pylist([episode_to_row(episode, 0)], schema=episode_features(["image"]).arrow_schema)
    file = tmp_path_factory.mktemp("parquet") / "train-0.parquet"
    pq.write_table(table, file)
    return file.read_bytes()


@fuzzed
@given(edits=EDITS)
@example(edits=b"PAR1garbagePAR1")
@example(edits=b"")
def test_parquet(edits, parquet_file, tmp_path):
    file = tmp_path / "data/train-0.parquet"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(edited(parquet_file, edits))
    refused_or_read(lambda: list(open_episodes(tmp_path)), tmp_path)
    refused_or_read(lambda: list(open_episodes(tmp_path, reader="parquet")), tmp_path)
    refused_or_read(lambda: open_store(str(tmp_path), "train", streaming=True), tmp_path)


def test_a_data_set_that_is_no_parquet_is_named(tmp_path):
    file = tmp_path / "data/train-0.parquet"
    file.parent.mkdir()
    file.write_bytes(b"PAR1garbagePAR1")
    with pytest.raises(ValueError, match=r"train-0\.parquet cannot be used"):
        open_episodes(tmp_path)
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        open_store(str(tmp_path), "train", streaming=False)
    (tmp_path / "meta/episodes").mkdir(parents=True)
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v3.0", "features": {}, "fps": 1, "data_path": "x"}')
    file.rename(tmp_path / "meta/episodes/0.parquet")
    with pytest.raises(ValueError, match=r"episodes/0\.parquet"):
        open_episodes(tmp_path, reader="lerobot")


@pytest.fixture(scope="module")
def hdf5_file(tmp_path_factory):
    h5py = pytest.importorskip("h5py")
    file = tmp_path_factory.mktemp("hdf5") / "a.hdf5"
    with h5py.File(file, "w") as content:
        content["data/demo_0/actions"] = np.zeros((3, 2), np.float32)
        content["data/demo_0/obs/cam_image"] = np.zeros((3, 8, 8, 3), np.uint8)
    return file.read_bytes()


@fuzzed
@given(edits=EDITS)
@example(edits=b"\x89HDF\r\n\x1a\n")
def test_hdf5(edits, hdf5_file, tmp_path):
    (tmp_path / "a.hdf5").write_bytes(edited(hdf5_file, edits))
    refused_or_read(lambda: list(open_episodes(tmp_path, reader="hdf5")), tmp_path)


@pytest.fixture(scope="module")
def run_state(tmp_path_factory):
    pytest.importorskip("stable_baselines3")
    from ivideogpt_hf.rl.runs.state import random_state

    file = tmp_path_factory.mktemp("run") / "state.pt"
    torch.save({"agent": {"parameters": torch.zeros(3)}, "random": random_state(), "seconds": 1.0}, file)
    return file.read_bytes()


class Evil:
    def __reduce__(self):
        return pytest.fail, ("it was executed",)


@fuzzed
@given(edits=EDITS)
@example(edits=pickle.dumps(Evil()))
@example(edits=pickle.dumps(1))
@example(edits=b"PK\3\4" + b"x" * 50)
@example(edits=b"\x80\x02(K\x01e.")
@example(edits=b"\x80\x02h\x05.")
@example(edits=b"\x80\x02..")
@example(edits=b"\x80\x02K\x01(K\x01K\x02u.")
@example(edits=b"\x80\x02K\x01K\x02b.")
@example(edits=b"\x80\x02K\x05Q.")
@example(edits=b"\x80\x02\x8b\xff\xff\xff\x7f")
@example(edits=b"\x80\x02X\x05\0\0\0\xff\xff\xff\xff\xff.")
@example(edits=b"\x80\x02\x86.")
@example(edits=b"\x80\x02ccollections\nOrderedDict\nK\x01R.")
@example(edits=b"\x80\x02J")
@example(edits=b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.")
def test_states_of_runs(edits, run_state, tmp_path):
    from ivideogpt_hf.rl.runs.state import read_state

    file = tmp_path / "state.pt"
    file.write_bytes(edited(run_state, edits))
    state = refused_or_read(lambda: read_state(file, ["agent", "random"]), file)
    assert state is None or {"agent", "random"} <= state.keys()


# -- states -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory, world):
    """A snapshot of two rows of different ages: its header and its tensors."""
    _, old = world.step(world.reset(random_frames(1, 2)), random_actions(1, 3), sampling=Sampling(seed=0))
    file = tmp_path_factory.mktemp("state") / "state.safetensors"
    WorldState.cat([old, world.reset(random_frames(1, 2, seed=1))]).save(file)
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["state"]), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def stepped(world, file):
    """The tokens of a step of a state in a file."""
    state = WorldState.load(file)
    state = state.index(list(range(state.batch_size)))
    return world.step(state, random_actions(state.batch_size, 3), sampling=Sampling(seed=0))[0].tokens


def change(tensor, how):
    """A tensor that is wrong in one way."""
    changes = {
        "shorter": lambda: tensor[..., :-1] if tensor.ndim else tensor,
        "fewer": lambda: tensor[1:],
        "flat": tensor.flatten,
        "other dtype": lambda: tensor.double() if tensor.dtype != torch.float64 else tensor.int(),
        "half": tensor.half,
        "huge": lambda: torch.full_like(tensor, 255 if tensor.dtype == torch.uint8 else 10**9),
        "negative": lambda: torch.full_like(tensor, 0 if tensor.dtype == torch.uint8 else -1),
        "not finite": lambda: tensor * float("nan"),
        "empty": lambda: tensor.new_empty(0),
    }
    return changes[how]()


HARMLESS = {("frames", "huge"), ("frames", "negative")}  # white and black pictures
FINITE = ("prefix", "tail", "memory.0.key", "memory.0.value")


@pytest.mark.parametrize(
    "name", ["frames", "last_tokens", "prefix", "tokens", "tail", "memory.0.key", "memory.0.value"]
)
def test_snapshots_with_a_tensor_that_is_wrong(name, snapshot, world, tmp_path):
    header, tensors = snapshot
    file = tmp_path / "state.safetensors"
    for how in ("shorter", "fewer", "flat", "other dtype", "half", "huge", "negative", "not finite", "empty"):
        if (name, how) in HARMLESS or (name in FINITE and how in ("huge", "negative")):
            continue
        changed = change(tensors[name], how).contiguous()
        if changed.dtype == tensors[name].dtype and changed.equal(tensors[name]):
            continue
        save_file(tensors | {name: changed}, file, {"state": json.dumps(header)})
        with pytest.raises((ValueError, OSError)):
            stepped(world, file)
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"state": json.dumps(header)})
    with pytest.raises(ValueError, match=str(file)):
        stepped(world, file)


@fuzzed
@given(
    key=st.sampled_from(["context_of_row", "num_frames", "num_steps", "streams", "version"]),
    value=st.one_of(VALUES, st.lists(st.integers(-1, 3), max_size=3)),
)
@example(key="num_frames", value=[10**12, 0])
@example(key="num_frames", value=[0, 0])
@example(key="num_frames", value=[True, False])
@example(key="context_of_row", value=[-1, 0])
@example(key="streams", value=[2**70, 0])
@example(key="streams", value=["a", 0])
def test_snapshots_with_a_strange_header(key, value, snapshot, world, tmp_path):
    header, tensors = snapshot
    file = tmp_path / "state.safetensors"
    save_file(tensors, file, {"state": json.dumps(header | {key: value})})
    refused_or_read(lambda: stepped(world, file), file)


@fuzzed
@given(content=st.binary(max_size=60), header=TEXTS)
@example(content=b"", header="[" * 100_000)
def test_snapshots_that_are_none(content, header, tmp_path):
    file = tmp_path / "state.safetensors"
    file.write_bytes(content)
    assert refused_or_read(lambda: WorldState.load(file), file) is None
    save_file({"frames": torch.zeros(1)}, file, {"state": header})
    assert refused_or_read(lambda: WorldState.load(file), file) is None


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, world):
    folder = tmp_path_factory.mktemp("checkpoint")
    world.save_pretrained(folder)
    return folder


BAD_NAMES = (
    *("w.bin", "../../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors"),
    *("model.safetensors/../../y.safetensors", "w.bin\nmodel.safetensors", 5, None, ["model.safetensors"]),
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_index_that_names_anything_but_safetensors_beside_it(name, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "x")
    weight_map = {"lm_head.weight": name}
    torch.save({}, tmp_path / "x/transformer/w.bin")
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        file = tmp_path / "x/transformer" / index
        file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        with pytest.raises(ValueError, match="pickles are never loaded"):
            WorldModel.from_pretrained(tmp_path / "x")
        file.unlink()


@settings(fuzzed, max_examples=12)
@given(content=CONTENTS)
@example(content=DEEP)
def test_indices(content, checkpoint, tmp_path):
    folder = tmp_path / "x"
    if not folder.exists():
        shutil.copytree(checkpoint, folder)
        (folder / "transformer/model.safetensors").rename(folder / "transformer/model-00001-of-00001.safetensors")
    (folder / "transformer/model.safetensors.index.json").write_bytes(content)
    refused_or_read(lambda: WorldModel.from_pretrained(folder), folder)


def test_a_network_on_its_own_reads_no_pickle_that_an_index_names(world, tmp_path):
    weights = world.transformer.state_dict()
    world.transformer.config.save_pretrained(tmp_path)
    torch.save(weights, tmp_path / "w.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "w.bin")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="pickles are never loaded"):
        IVideoGPTForCausalLM.from_pretrained(tmp_path)


def test_adapters_beside_the_weights_are_not_loaded(checkpoint, tmp_path):
    """transformers would load them by itself, from a pickle too, and the base model that they name."""
    shutil.copytree(checkpoint, tmp_path / "x")
    content = {"peft_type": "LORA", "base_model_name_or_path": "someone/else", "r": 1}
    (tmp_path / "x/transformer/adapter_config.json").write_text(json.dumps(content))
    torch.save({}, tmp_path / "x/transformer/adapter_model.bin")
    with pytest.raises(ValueError, match="merge the adapters"):
        WorldModel.from_pretrained(tmp_path / "x")


PARTS = ("transformer/config.json", "transformer/generation_config.json", "tokenizer/config.json")
PROCESSOR = "processor/video_preprocessor_config.json"
# Fields of configs on which sizes depend, and fields that choose what transformers does.
CONFIG_NAMES = """num_attention_heads num_key_value_heads hidden_size head_dim num_hidden_layers vocab_size hidden_act
dtype torch_dtype rope_parameters rope_scaling quantization_config _attn_implementation
attn_implementation num_labels id2label layer_types action_dim num_reward_bins reward_range
max_position_embeddings tie_word_embeddings model_type auto_map transformers_version temperature
cache_implementation block_out_channels patch_size resolution norm_num_groups act_fn
layers_per_block context_fsq_levels num_context_codes num_context_frames _class_name size action_low
action_names embodiments reward_transform image_mean to_dict update"""
CONFIG_KEYS = st.sampled_from(CONFIG_NAMES.split())
CHOICES = st.sampled_from(
    ["zzz", "evil/repo", "longrope", "torchao", "float16", {"quant_method": "torchao"}, [0, 0], []]
)


def load_changed(checkpoint, folder, part, change):
    """Load a checkpoint in which one file has some other fields, or another content."""
    if not folder.exists():
        shutil.copytree(checkpoint, folder)
    file, before = folder / part, (checkpoint / part).read_bytes()
    file.write_bytes(change if isinstance(change, bytes) else json.dumps(json.loads(before) | change).encode())
    try:
        refused_or_read(lambda: WorldModel.from_pretrained(folder), folder)
    finally:
        file.write_bytes(before)


@settings(fuzzed, max_examples=60)
@given(
    part=st.sampled_from([*PARTS, PROCESSOR]),
    change=st.one_of(CONTENTS, st.dictionaries(CONFIG_KEYS, st.one_of(VALUES, CHOICES), min_size=1, max_size=3)),
)
@example(part=PARTS[0], change=DEEP)
@example(part=PARTS[1], change=b"[]")
@example(part=PARTS[1], change={"update": None})
@example(part=PARTS[0], change={"to_dict": None})
@example(part=PARTS[2], change=b"1")
@example(part=PROCESSOR, change=b"[]")
@example(part=PROCESSOR, change=b'"x"')
@example(part=PARTS[0], change={"num_attention_heads": 0})
@example(part=PARTS[0], change={"num_key_value_heads": 0})
@example(part=PARTS[0], change={"head_dim": 0})
@example(part=PARTS[0], change={"hidden_act": "zzz"})
@example(part=PARTS[0], change={"rope_parameters": {"rope_type": "longrope", "rope_theta": 1}})
@example(part=PARTS[0], change={"dtype": "evil"})
@example(part=PARTS[0], change={"num_labels": 3_000_000})
@example(part=PARTS[0], change={"quantization_config": [1]})
@example(part=PARTS[0], change={"quantization_config": {"quant_method": "gptq", "bits": 4}})
@example(part=PARTS[0], change={"quantization_config": {}, "intermediate_size": 20_000_000})
@example(part=PARTS[0], change={"quantization_config": {"quant_method": "fp8"}, "intermediate_size": 20_000_000})
@example(part=PARTS[0], change={"quantization_config": {"quant_method": "torchao"}, "intermediate_size": 20_000_000})
@example(part=PARTS[2], change={"patch_size": 0})
@example(part=PARTS[2], change={"block_out_channels": [0, 0]})
@example(part=PARTS[2], change={"block_out_channels": []})
def test_configs(part, change, checkpoint, tmp_path):
    load_changed(checkpoint, tmp_path / "x", part, change)


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("network", [IVideoGPTForCausalLM, IVideoGPTVQModel])
def test_a_config_names_no_code_to_compute_with(name, network, world, tmp_path):
    part = world.transformer if network is IVideoGPTForCausalLM else world.vq_model
    part.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: "kernels-community/flash-attn"}))
    with pytest.raises(
        ValueError, match=f"{name} = 'kernels-community/flash-attn', which only who loads it may choose"
    ):
        network.from_pretrained(tmp_path)


def test_json_is_not_nested_deeper_than_what_reads_it_further():
    with pytest.raises(OSError, match=r"^x\.json is nested too deep"):
        parse_json("[" * 200 + "]" * 200, "x.json")

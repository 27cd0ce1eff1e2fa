"""What the VQ model is trained on and from: losses, codebooks, the discriminator."""

import json
from dataclasses import replace

import pytest
import torch

from ivideogpt_hf import IVideoGPTVQModel
from ivideogpt_hf.metrics.lpips import LPIPS
from ivideogpt_hf.training.arguments import VQArguments
from ivideogpt_hf.training.losses import Discriminator, hinge_loss
from ivideogpt_hf.training.train_vq import VQLosses
from tests.conftest import VQ_SETTINGS, build_vq_model, random_frames
from tests.training.conftest import metrics_of, run

pytest.importorskip("accelerate")


def load(folder):
    return IVideoGPTVQModel.from_pretrained(folder, subfolder="tokenizer")


@pytest.fixture(scope="module")
def lpips():
    torch.manual_seed(0)
    return LPIPS()


@pytest.fixture(scope="module")
def lpips_file(lpips, tmp_path_factory):
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("lpips") / "random.safetensors"
    save_file(lpips.state_dict(), file)
    return file


def test_the_loss_is_the_sum_of_its_terms(lpips):
    model = build_vq_model().eval()
    arguments = VQArguments(vq_config=VQ_SETTINGS, commitment_weight=0.5, perceptual_weight=2.0)
    frames = random_frames(2, 4).float() / 255
    total, reconstruction, terms = VQLosses(arguments, lpips, None, model).reconstruct(model, frames)
    output = model(frames[:, :2], frames[:, 2:])
    distance = lpips(reconstruction.flatten(0, 1), frames.flatten(0, 1)).unflatten(0, (2, 4))
    expected = (
        (output.context_reconstruction - frames[:, :2]).abs().mean()
        + (output.future_reconstruction - frames[:, 2:]).abs().mean()
        + 0.5 * (output.context_commitment_loss + output.future_commitment_loss)
        + 2.0 * (distance[:, :2].mean() + distance[:, 2:].mean())
    )
    torch.testing.assert_close(total, expected)
    assert terms.keys() == {"context_l1", "future_l1", "context_commitment", "future_commitment", "perceptual"}


def test_the_squared_error_counts_beside_the_absolute_one():
    model = build_vq_model().eval()
    frames = random_frames(2, 4).float() / 255
    plain = VQArguments(vq_config=VQ_SETTINGS, perceptual_weight=0.0)
    squared = replace(plain, squared_weight=3.0)
    before, reconstruction, _ = VQLosses(plain, None, None, model).reconstruct(model, frames)
    after, _, terms = VQLosses(squared, None, None, model).reconstruct(model, frames)
    error = (reconstruction - frames).square()
    torch.testing.assert_close(after - before, 3.0 * (error[:, :2].mean() + error[:, 2:].mean()))
    assert {"context_l2", "future_l2"} <= terms.keys()


def test_the_psnr_of_a_perfect_reconstruction_is_finite():
    model = build_vq_model().eval()
    for decoder in (model.decoder, model.cond_decoder):  # beyond white, whatever it is asked to decode
        torch.nn.init.zeros_(decoder.conv_out.weight)
        torch.nn.init.constant_(decoder.conv_out.bias, 2)
    losses = VQLosses(VQArguments(vq_config=VQ_SETTINGS, perceptual_weight=0.0), None, None, model)
    white = torch.full((2, 4, 3, 16, 16), 255, dtype=torch.uint8)
    measured = losses.measure(model, {"frames": white})
    assert (measured["context_psnr"], measured["future_psnr"]) == (80, 80)


def test_the_generator_fools_the_discriminator_without_training_it(lpips):
    torch.manual_seed(0)
    model, discriminator = build_vq_model().train(), Discriminator(depth=2, hidden=8)
    arguments = VQArguments(vq_config=VQ_SETTINGS, adversarial_start=3)
    losses = VQLosses(arguments, lpips, discriminator, model)
    batch = {"frames": random_frames(2, 4)}
    assert "adversarial" not in losses.generator(model, batch, None, 2).metrics
    loss = losses.generator(model, batch, None, 3)
    assert "adversarial" in loss.metrics
    loss.value.backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(parameter.requires_grad for parameter in discriminator.parameters())


def test_the_discriminator_sees_the_frames_of_the_same_update(lpips):
    model, discriminator = build_vq_model().train(), Discriminator(depth=2, hidden=8).eval()
    losses = VQLosses(VQArguments(vq_config=VQ_SETTINGS, adversarial_start=0), lpips, discriminator, model)
    real, fake = losses.generator(model, {"frames": random_frames(2, 4)}, None, 0).carry
    assert real.equal(random_frames(2, 4).float() / 255)
    assert not fake.requires_grad
    loss = losses.discriminate(discriminator, {}, (real, fake), 0).value
    expected = hinge_loss(discriminator(real.flatten(0, 1)), discriminator(fake.flatten(0, 1)))
    torch.testing.assert_close(loss, expected)


def test_the_adversarial_part_begins_at_its_update(vq_config, lpips_file, tmp_path):
    larger = json.dumps(VQ_SETTINGS | {"resolution": 32, "max_att_resolution": 16})
    options = ("--perceptual_weight", 1, "--lpips_weights", lpips_file, "--adversarial_start", 2, "--vq_config", larger)
    assert run("train-vq", vq_config, *options, "--num_updates", 4, "--batch_size", 2) == 0
    assert ["discriminator" in entry for entry in metrics_of(tmp_path / "out")[::2]] == [False, False, True, True]


def test_frozen_codebooks_stay(vq_config, vq_folder, tmp_path):
    assert run("train-vq", vq_config, "--vq_config", "null", "--vq_model", vq_folder, "--freeze_codebooks") == 0
    before, after = load(vq_folder), load(tmp_path / "out")
    for name in ("quantize", "dynamics_quantize"):
        assert getattr(after, name).embedding.weight.equal(getattr(before, name).embedding.weight)
    assert not after.quant_linear.weight.equal(before.quant_linear.weight)


def test_another_context_length_resizes_the_model(vq_config, vq_folder, tmp_path):
    options = ("--vq_config", "null", "--vq_model", vq_folder, "--num_context_frames", 1)
    assert run("train-vq", vq_config, *options) == 0
    assert load(tmp_path / "out").config.num_context_frames == 1


def test_training_lowers_the_validation_loss_and_keeps_the_best(vq_config, tmp_path):
    options = ("--num_updates", 60, "--validate_every", 10, "--save_every", 10, "--learning_rate", "3e-3")
    assert run("train-vq", vq_config, *options, "--restart_dead_codes", 5) == 0
    entries = metrics_of(tmp_path / "out")
    losses = [entry["validation/loss"] for entry in entries if "validation/loss" in entry]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert {"codebook/context_usage", "codebook/dynamics_perplexity"} <= {name for entry in entries for name in entry}
    assert load(tmp_path / "out/best").config.resolution == 16


def test_a_training_says_how_it_goes_and_what_it_wrote(vq_config, tmp_path, capsys):
    assert run("train-vq", vq_config, "--num_updates", 8, "--validate_every", 4, "--save_every", 4) == 0
    printed = capsys.readouterr()
    best = json.loads((tmp_path / "out/best/validation.json").read_text())
    for update in (4, 8):
        assert f"validation after update {update}: loss " in printed.err
    assert f"{best['validation/loss']:.4f} after update {best['update']}" in printed.err
    assert (tmp_path / "out/curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_warm_up_that_never_ends_is_told(vq_config, caplog):
    assert run("train-vq", vq_config, "--num_updates", 2, "--warmup_updates", 2) == 0
    assert "warmup_updates (2) is not below num_updates (2)" in caplog.text


def test_sample_videos_show_truth_and_reconstruction(vq_config, tmp_path):
    from ivideogpt_hf import read_video

    assert run("train-vq", vq_config, "--sample_every", 6) == 0
    frames = read_video(tmp_path / "out/samples/update-00000006.gif")
    frame_width = 96  # of 16 pixels, enlarged until a caption fits
    assert frames.shape[0] == 5
    assert 2 * frame_width <= frames.shape[3] < 3 * frame_width
    assert frames.shape[2] > frame_width


def test_without_lpips_weights_it_stops_and_says_so(vq_config, monkeypatch, capsys):
    monkeypatch.delenv("IVIDEOGPT_LPIPS_WEIGHTS", raising=False)
    assert run("train-vq", vq_config, "--perceptual_weight", 1) == 2
    error = capsys.readouterr().err
    assert "LPIPS weights are missing" in error
    assert error.endswith("Use --perceptual-weight 0 to train without LPIPS\n")


def test_missing_lpips_weights_show_before_the_data_are_read(vq_config, capsys):
    lpips = ("--perceptual_weight", 1, "--lpips_weights", "none.safetensors")
    assert run("train-vq", vq_config, "--data", "nowhere", *lpips) == 2
    assert "there is no file none.safetensors" in capsys.readouterr().err

import accelerate
import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

from ivideogpt_hf import IVideoGPTVQConfig, IVideoGPTVQModel
from ivideogpt_hf.models.vq_layers import Codebook, ContextCrossAttention, DoublingConv
from tests.conftest import build_vq_model


def clips(num_clips, num_frames, height=16, width=16, seed=0):
    return torch.rand(num_clips, num_frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "config",
    [
        {"num_context_frames": 1},
        {"num_context_frames": 3},
        {"repeat_last_context": True},
        {"resolution": (16, 24)},
        {"patch_size": 2},
        {"block_out_channels": (32, 32, 64), "resolution": 32, "patch_size": 2},
        {"vq_embed_dim": 5, "mid_block_add_attention": True},
    ],
)
def test_token_sequence_has_the_layout_of_the_config(config):
    model = build_vq_model(**config)
    layout, (height, width) = model.config.layout, model.config.frame_size
    tokens, labels = model.tokenize(clips(2, layout.num_context_frames + 3, height, width))
    assert tokens.shape == labels.shape == (2, layout.sequence_length(3))
    assert model.detokenize(tokens).shape == (2, layout.num_context_frames + 3, 3, height, width)
    assert tokens[:, [layout.slot(i) for i in range(3)]].eq(layout.slot_id).all()


def test_a_context_from_tokens_cannot_begin_a_prompt_that_repeats_its_last_frame():
    """Coding that frame takes what only pixels give."""
    model = build_vq_model(repeat_last_context=True)
    frames = clips(1, 2)
    context = model.context_from_tokens(model.encode_context(frames).tokens)
    with pytest.raises(ValueError, match="make it with encode_context"):
        model.prompt_tokens(frames, context)


def test_labels_ignore_the_context_and_the_first_slot_only():
    model = build_vq_model()
    tokens, labels = model.tokenize(clips(1, 4))
    first = model.config.layout.slot(0) + 1
    assert labels[:, :first].eq(-100).all()
    assert labels[:, first:].equal(tokens[:, first:])


def test_a_repeated_context_frame_is_coded_as_a_future_one_in_the_prompt():
    model, frames = build_vq_model(), clips(2, 4)
    shown_twice = torch.cat([frames[:, :2], frames[:, 1:]], dim=1)
    expected, _ = model.tokenize(shown_twice)
    model.config.repeat_last_context = True
    tokens, labels = model.tokenize(frames)
    assert tokens.equal(expected)
    assert labels[:, : model.config.layout.slot(0) + 1].eq(-100).all()


def test_context_alone_can_be_tokenized_and_decoded():
    model = build_vq_model()
    tokens, _ = model.tokenize(clips(1, 2))
    assert model.detokenize(tokens).shape[1] == 2


def test_future_tokens_do_not_depend_on_other_future_frames():
    model = build_vq_model()
    long, short = model.tokenize(clips(1, 5))[0], model.tokenize(clips(1, 5)[:, :4])[0]
    assert long[:, : short.shape[1]].equal(short)


def test_forward_equals_tokenize_then_detokenize():
    model = build_vq_model()
    frames = clips(2, 5)
    with torch.no_grad():
        output = model(frames[:, :2], frames[:, 2:])
    decoded = model.detokenize(model.tokenize(frames)[0])
    # Other batch sizes take other kernels; a pixel's level is 4e-3.
    torch.testing.assert_close(torch.cat([output[0], output[1]], dim=1), decoded, atol=1e-4, rtol=0)


def test_commitment_loss_is_both_terms():
    codebook = Codebook(4, IVideoGPTVQConfig(latent_channels=3, commitment_cost=0.5))
    vectors = torch.randn(10, 3, requires_grad=True)
    quantized = codebook(vectors)
    error = (codebook.embedding.weight[quantized.codes] - vectors).square().mean()
    torch.testing.assert_close(quantized.loss, 1.5 * error)
    quantized.loss.backward()
    assert vectors.grad.abs().sum() > 0
    assert codebook.embedding.weight.grad.abs().sum() > 0


def test_normalised_latents_have_unit_length_and_no_gradient_along_themselves():
    codebook = Codebook(4, IVideoGPTVQConfig(latent_channels=3, normalize_latents=True))
    torch.nn.init.normal_(codebook.embedding.weight)
    vectors = torch.randn(7, 3, requires_grad=True)
    quantized = codebook(vectors)
    torch.testing.assert_close(quantized.latents.norm(dim=-1), torch.ones(7))
    assert torch.equal(codebook(5 * vectors).codes, quantized.codes)
    quantized.loss.backward()
    torch.testing.assert_close((vectors.grad * vectors).sum(-1), torch.zeros(7))


def test_codes_are_found_in_float32_in_half_precision():
    codebook = Codebook(64, IVideoGPTVQConfig(latent_channels=8)).bfloat16()
    vectors = torch.randn(200, 8).bfloat16()
    exact = torch.cdist(vectors.float(), codebook.embedding.weight.float()).argmin(-1)
    assert codebook(vectors).codes.equal(exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_decodes_close_to_float32(dtype):
    model = build_vq_model()
    tokens, _ = model.tokenize(clips(1, 4))
    exact = model.detokenize(tokens)
    half = build_vq_model().to(dtype).detokenize(tokens)
    assert half.dtype == dtype
    assert (half.float() - exact).abs().mean() < 0.05


def test_gradient_checkpointing_gives_the_same_gradients():
    frames = clips(1, 4)
    gradients = []
    for checkpointing in (False, True):
        model = build_vq_model(attention_dropout=0.0).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        output = model(frames[:, :2], frames[:, 2:])
        (output.future_reconstruction.square().mean() + output.future_commitment_loss).backward()
        gradients.append(model.encoder.conv_in.weight.grad)
    torch.testing.assert_close(*gradients)


def test_fewer_context_frames_keep_the_last_rows():
    model = build_vq_model(num_context_frames=3)
    blocks = [block for block in model.modules() if isinstance(block, ContextCrossAttention)]
    tables = [block.kv_pos_emb.clone() for block in blocks]
    model.resize_context(1)
    for block, table in zip(blocks, tables, strict=True):
        assert block.kv_pos_emb.equal(table[-len(table) // 3 :])
    assert model.tokenize(clips(1, 2))[0].shape[1] == model.config.layout.sequence_length(1)


def test_more_context_frames_repeat_the_oldest_frames_rows(tmp_path):
    model = build_vq_model(num_context_frames=2)
    block = next(block for block in model.modules() if isinstance(block, ContextCrossAttention))
    oldest, newest = block.kv_pos_emb.detach().chunk(2)
    model.resize_context(4)
    assert block.kv_pos_emb.equal(torch.cat([oldest, oldest, oldest, newest]))
    model.save_pretrained(tmp_path)
    assert IVideoGPTVQModel.from_pretrained(tmp_path).tokenize(clips(1, 5))[0].equal(model.tokenize(clips(1, 5))[0])


@pytest.mark.parametrize("max_shard_size", ["50GB", "200KB"])
def test_save_and_load_round_trip(tmp_path, max_shard_size):
    model = build_vq_model()
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "200KB")
    loaded = IVideoGPTVQModel.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor), name


@pytest.mark.parametrize(
    ("config", "million"),
    [
        ({"resolution": 64, "block_out_channels": (128, 256, 512), "max_att_resolution": 16}, 114.159174),
        ({"block_out_channels": (128, 256, 256, 512, 768)}, 310),
    ],
)
def test_released_sizes(config, million):
    with torch.device("meta"):
        model = IVideoGPTVQModel(IVideoGPTVQConfig(**config))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == million * 1e6 if million != 310 else abs(count / 1e6 - million) < 5


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(1, 3, 1, 16, 16), r"must have shape \(B, T, 3, 16, 16\)"),
        (torch.rand(1, 3, 3, 16, 20), r"must have shape \(B, T, 3, 16, 16\)"),
        (torch.zeros(1, 3, 3, 16, 16, dtype=torch.uint8), "must be float in"),
        (torch.rand(1, 3, 3, 16, 16) * 255, r"must be in \[0, 1\]"),
        (torch.full((1, 3, 3, 16, 16), torch.nan), "NaN"),
        (torch.rand(1, 1, 3, 16, 16), "at least its 2 context frames"),
    ],
)
def test_bad_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        build_vq_model().tokenize(frames)


@pytest.mark.parametrize(
    ("position", "token", "message"),
    [(0, 24, "context tokens"), (-1, 23, "dynamics tokens"), (-1, 64, "dynamics tokens"), (0, -1, "context tokens")],
)
def test_tokens_outside_their_range_are_refused(position, token, message):
    model = build_vq_model()
    tokens, _ = model.tokenize(clips(1, 3))
    tokens[0, position] = token
    with pytest.raises(ValueError, match=message):
        model.detokenize(tokens)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"resolution": 20}, "multiple of downsampling x patch_size"),
        ({"resolution": (16, 16, 16)}, "one number or"),
        ({"block_out_channels": (32, 40)}, "divisible by norm_num_groups"),
    ],
)
def test_config_that_does_not_divide_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_vq_model(**config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.tokenize(torch.zeros(0, 4, 3, 16, 16)), "frames must hold at least one clip"),
        (lambda model: model(torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 0, 3, 16, 16)), "future_frames must hold"),
        (lambda model: model.detokenize(torch.zeros(0, 129, dtype=torch.int64)), "there are no context tokens"),
        (
            lambda model: model.decode_future(
                model.encode_context(torch.zeros(1, 2, 3, 16, 16)).decoder_memory,
                torch.zeros(1, 0, 4, dtype=torch.int64),
            ),
            "there are no dynamics tokens",
        ),
    ],
)
def test_nothing_is_neither_coded_nor_decoded(call, message):
    with pytest.raises(ValueError, match=message):
        call(build_vq_model())


@pytest.mark.parametrize("book", ["quantize", "dynamics_quantize"])
def test_codes_are_searched_for_in_what_the_embedding_gives(book):
    """Otherwise the codes of a codebook that was changed (a hook, an adapter) are those of another one."""
    model = build_vq_model()
    codebook = getattr(model, book)
    codebook.embedding.register_forward_hook(lambda _module, _inputs, output: output.flip(0))
    vectors = codebook.embedding.weight.detach().flip(0)
    assert codebook(vectors).codes.equal(torch.arange(len(vectors)))


# -- as a model of transformers ---------------------------------------------------------------------------------------


def test_the_loss_is_absolute_errors_and_commitment():
    model, frames = build_vq_model(), clips(2, 4)
    with torch.no_grad():
        output = model(frames[:, :2], frames[:, 2:])
    errors = (output.context_reconstruction - frames[:, :2]).abs().mean()
    errors += (output.future_reconstruction - frames[:, 2:]).abs().mean()
    torch.testing.assert_close(output.loss, errors + output.context_commitment_loss + output.future_commitment_loss)


def test_feature_maps_on_request():
    model, frames = build_vq_model(), clips(1, 4)
    maps = model(frames[:, :2], frames[:, 2:], output_hidden_states=True).hidden_states
    assert [part.shape[-1] for part in maps] == [8, 8, 8, 16, 16]  # two stages of the encoder, three of the decoder
    assert model(frames[:, :2], frames[:, 2:]).hidden_states is None


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="IVideoGPTVQModel takes no pixel_values"):
        build_vq_model()(clips(1, 2), clips(1, 1), pixel_values=None)


def test_trainer_trains_it(tmp_path):
    model, frames = build_vq_model(), clips(4, 3)
    data = [{"context_frames": clip[:2], "future_frames": clip[2:]} for clip in frames]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    before = model.encoder.conv_in.weight.clone()
    Trainer(model=model, args=arguments, train_dataset=data).train()
    assert not model.encoder.conv_in.weight.equal(before)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights_give_the_same(place, tmp_path):
    """All weights are read in calls, at which Accelerate brings them."""
    model, frames = build_vq_model(composites_context=True), clips(1, 4)
    tokens = model.tokenize(frames)[0]
    decoded = model.detokenize(tokens)
    cpu = torch.device("cpu")
    if place == "cpu":
        accelerate.cpu_offload(model, cpu)
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=cpu)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.tokenize(frames)[0].equal(tokens)
    torch.testing.assert_close(model.detokenize(tokens), decoded)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_a_convolution_of_a_doubled_map_is_that_of_the_repeated_elements(dtype, tolerance):
    torch.manual_seed(0)
    conv, x = DoublingConv(6).to(dtype), torch.randn(2, 6, 5, 7, dtype=dtype, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2), conv.weight, conv.bias, padding=1)
    assert torch.allclose(conv(x), plain, atol=tolerance)
    wanted = torch.autograd.grad(plain.square().sum(), [x, conv.weight, conv.bias])
    got = torch.autograd.grad(conv(x).square().sum(), [x, conv.weight, conv.bias])
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).abs().max() <= 10 * tolerance * other.abs().max()

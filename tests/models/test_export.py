"""Programs of the networks' parts, for where there is no Python: torch.export, and ONNX where its packages are."""

import io

import pytest
import torch
from torch import nn
from transformers import StaticCache

from ivideogpt_hf.models.vq_layers import ContextMemory
from tests.conftest import build_transformer, build_vq_model, random_actions, random_frames

TOLERANCE = 1e-4


class Part(nn.Module):
    """One method of a network as a module of its own. Memories go in and out as pairs of tensors."""

    def __init__(self, network, call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs):
        return self.call(self.network, *inputs)


def pairs(memory):
    return [(part.key, part.value) for part in memory]


def memories(of_pairs):
    return [ContextMemory(key, value) for key, value in of_pairs]


def encode_context(model, frames):
    context = model.encode_context(frames)
    return context.tokens, context.reconstruction, pairs(context.encoder_memory), pairs(context.decoder_memory)


def encode_future(model, memory, frames):
    return model.encode_future(memories(memory), frames)


def decode_future(model, memory, codes, context_frames):
    return model.decode_future(memories(memory), codes, context_frames)


@pytest.fixture(scope="module")
def vq_parts():
    """Modules with their inputs, by name."""
    model = build_vq_model(composites_context=True)
    frames = random_frames(2, 4).float() / 255
    with torch.no_grad():
        context = model.encode_context(frames[:, :2])
        codes = model.encode_future(context.encoder_memory, frames[:, 2:])
    return {
        "encode_context": (Part(model, encode_context), (frames[:, :2],)),
        "encode_future": (Part(model, encode_future), (pairs(context.encoder_memory), frames[:, 2:])),
        "decode_future": (Part(model, decode_future), (pairs(context.decoder_memory), codes, frames[:, :2])),
    }


class DecodingPass(nn.Module):
    """One pass with a static cache. Its tensors go in and out, since a program keeps nothing."""

    def __init__(self, transformer, num_positions):
        super().__init__()
        self.transformer, self.num_positions = transformer, num_positions

    def forward(self, token, actions, length, storage):
        cache = StaticCache(config=self.transformer.config, max_cache_len=self.num_positions)
        for layer, (keys, values) in zip(cache.layers, storage, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values, layer.cumulative_length = keys.clone(), values.clone(), length.clone()
        logits = self.transformer(token, actions=actions, past_key_values=cache, use_cache=True).logits[:, -1]
        return logits, [(layer.keys, layer.values) for layer in cache.layers]


@pytest.fixture(scope="module")
def decoding_pass():
    """The pass after a prompt, its inputs, and the logits that it must give."""
    config = build_vq_model().config
    transformer, layout = build_transformer(config, action_dim=3), config.layout
    prompt = torch.randint(0, 24, (2, layout.prompt_length), generator=torch.Generator().manual_seed(0))
    slot, actions = torch.full((2, 1), layout.slot_id), random_actions(2, 1, 3)
    cache = StaticCache(config=transformer.config, max_cache_len=layout.slot(2))
    with torch.no_grad():
        transformer(prompt, past_key_values=cache, use_cache=True)
        expected = transformer(torch.cat([prompt, slot], dim=1), actions=actions).logits[:, -1]
    storage = [(layer.keys, layer.values) for layer in cache.layers]
    inputs = slot, actions, torch.as_tensor(layout.prompt_length), storage
    return DecodingPass(transformer, layout.slot(2)), inputs, expected


def flat(values):
    return [value for value in torch.utils._pytree.tree_leaves(values) if isinstance(value, torch.Tensor)]


def assert_close(results, expected):
    for result, value in zip(results, flat(expected), strict=True):
        torch.testing.assert_close(torch.as_tensor(result), value, atol=TOLERANCE, rtol=TOLERANCE)


def run_onnx(program, inputs):
    """What onnxruntime computes of an exported program."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = io.BytesIO()
    torch.onnx.export(program, dynamo=True, verbose=False).save(file)
    session = runtime.InferenceSession(file.getvalue())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, flat(inputs), strict=True)})


@pytest.mark.parametrize("name", ["encode_context", "encode_future", "decode_future"])
@torch.no_grad()
def test_parts_of_the_vq_model(vq_parts, name):
    module, inputs = vq_parts[name]
    program = torch.export.export(module, inputs)
    assert_close(flat(program.module()(*inputs)), module(*inputs))
    assert_close(run_onnx(program, inputs), module(*inputs))


@torch.no_grad()
def test_a_decoding_pass_with_a_static_cache(decoding_pass):
    module, inputs, expected = decoding_pass
    program = torch.export.export(module, inputs)
    assert_close([program.module()(*inputs)[0]], expected)
    assert_close(run_onnx(program, inputs)[:1], expected)

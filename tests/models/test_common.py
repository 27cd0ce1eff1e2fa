"""transformers' own tests of models, run on ours: `make test-common` fetches them, elsewhere they are skipped.

They lie in transformers' source distribution and not in its wheel, under the name that the make target gives them.
"""

import sys
import types
import unittest

import pytest
import torch

pytest.importorskip("transformers_tests", reason="make test-common fetches transformers' own tests")
for module, name in (
    ("generation.test_utils", "GenerationTesterMixin"),
    ("exporters.test_export", "ExportTesterMixin"),
):
    # The common tests build on these two classes, which are in no distribution.
    stand_in = types.ModuleType(f"transformers_tests.{module}")
    setattr(stand_in, name, type(name, (), {}))
    sys.modules[f"transformers_tests.{module.split('.')[0]}"] = types.ModuleType(module.split(".")[0])
    sys.modules[stand_in.__name__] = stand_in

from transformers_tests.test_modeling_common import ModelTesterMixin  # noqa: E402

from ivideogpt_hf import IVideoGPTConfig, IVideoGPTForCausalLM, IVideoGPTVQConfig, IVideoGPTVQModel  # noqa: E402
from tests.conftest import build_transformer, build_vq_model, random_actions  # noqa: E402

VQ_CONFIG = build_vq_model().config
LAYOUT = VQ_CONFIG.layout


class SizesOfTransformer:
    """What transformers' tests ask a "model tester" for."""

    batch_size, seq_length, is_training = 2, LAYOUT.slot(2), True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def __init__(self, **config):
        self.config = config

    def get_config(self):
        settings = {"initializer_range": 0.02} | self.config
        return IVideoGPTConfig.from_dict(build_transformer(VQ_CONFIG, **settings).config.to_dict())

    def prepare_config_and_inputs_for_common(self):
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(0, 24, (self.batch_size, LAYOUT.prompt_length), generator=generator)
        codes = torch.randint(24, 64, (self.batch_size, 2, 4), generator=generator)
        blocks = torch.nn.functional.pad(codes, (1, 0), value=LAYOUT.slot_id).flatten(1)
        inputs = {"input_ids": torch.cat([prompt, blocks], dim=1)}
        if self.config.get("action_dim"):
            inputs["actions"] = random_actions(self.batch_size, 2, self.config["action_dim"])
        return self.get_config(), inputs


class SizesOfVQModel:
    """The same of the VQ model."""

    batch_size, is_training = 2, True

    def get_config(self):
        return IVideoGPTVQConfig.from_dict(build_vq_model(attention_dropout=0.0).config.to_dict())

    def prepare_config_and_inputs_for_common(self):
        frames = torch.rand(self.batch_size, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        return self.get_config(), {"context_frames": frames[:, :2], "future_frames": frames[:, 2:]}


class TransformerTests(ModelTesterMixin):
    all_model_classes = (IVideoGPTForCausalLM,)
    test_resize_embeddings = False  # the vocabulary is the layout's
    config = None

    def setUp(self):
        self.model_tester = SizesOfTransformer(**self.config)

    @unittest.skip("asks for the mixin of the tests of generation, which is in no distribution")
    def test_generation_tester_mixin_inheritance(self):
        pass

    @unittest.skip("`save_pretrained` writes names as they are in memory, unless save_original_format is given")
    def test_reverse_loading_mapping(self):
        pass

    @unittest.skip("both names of the cache are supported, since transformers 5.23 has the older one")
    def test_bc_cache_name_forward(self):
        pass


class TestActionFree(TransformerTests, unittest.TestCase):
    config = {}  # noqa: RUF012


class ActionTests(TransformerTests):
    pass


for name in dir(TransformerTests):
    if name.startswith("test_eager_matches_sdpa_inference"):
        setattr(ActionTests, name, unittest.skip("passes other batch sizes, without actions")(lambda self: None))


class TestActionConditioned(ActionTests, unittest.TestCase):
    config = {"action_dim": 3, "predict_reward": True}  # noqa: RUF012
    test_all_params_have_gradient = False  # the loss of tokens has no gradient for the head of rewards


class TestScaleAndShift(ActionTests, unittest.TestCase):
    config = {"action_dim": 3, "action_conditioning": "scale_shift"}  # noqa: RUF012


class TestVQModel(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (IVideoGPTVQModel,)
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        self.model_tester = SizesOfVQModel()

    def test_hidden_states_output(self):
        """The common test expects hidden states of sequences; these are feature maps."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = IVideoGPTVQModel(config).eval()
        maps = model(**inputs, output_hidden_states=True).hidden_states
        assert [tuple(part.shape[-2:]) for part in maps] == [(8, 8), (8, 8), (8, 8), (16, 16), (16, 16)]

    def test_retain_grad_hidden_states_attentions(self):
        """The common test differentiates the first output, which is the context's; these maps are the future's."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        output = IVideoGPTVQModel(config)(**inputs, output_hidden_states=True)
        for maps in output.hidden_states:
            maps.retain_grad()
        output.future_reconstruction.sum().backward()
        assert all(maps.grad is not None for maps in output.hidden_states)

    def test_model_get_set_embeddings(self):
        """The common test expects an embedding of tokens; frames come in by a convolution."""
        model = IVideoGPTVQModel(self.model_tester.get_config())
        assert isinstance(model.get_input_embeddings(), torch.nn.Conv2d)
        layer = torch.nn.Conv2d(3, 32, 1)
        model.set_input_embeddings(layer)
        assert model.get_input_embeddings() is layer

"""What users of transformers and diffusers write by habit: arguments that change nothing here are taken, and everything
else is refused by a line that says what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Foreign:
    """An argument of other libraries.

    Args:
        instead: what to pass instead, or why there is nothing to pass.
        harmless: values that change nothing.
    """

    instead: str
    harmless: tuple[Any, ...] = (None,)


ANY = (None, True, False)
LOADING = {
    "custom_pipeline": Foreign("IVideoGPTPipeline is the pipeline, and diffusers.DiffusionPipeline loads other code"),
    "low_cpu_mem_usage": Foreign("weights never take memory twice", ANY),
    "max_memory": Foreign("rollouts take one device, which device_map names"),
    "proxies": Foreign("set HTTPS_PROXY in the environment"),
    "resume_download": Foreign("downloads always go on where they broke off", ANY),
    "safety_checker": Foreign("there is none"),
    "trust_remote_code": Foreign("the package's own classes are used", ANY),
    "use_auth_token": Foreign("pass token"),
    "use_safetensors": Foreign("weights are only loaded from safetensors", (None, True)),
}
PREDICTING = {
    "callback": Foreign("pass callback_on_step_end"),
    "guidance_scale": Foreign("there is no guidance; sampling=Sampling(temperature=...) sharpens what is drawn"),
    "image": Foreign("pass video, a clip of as many frames as the context has"),
    "num_inference_steps": Foreign("there are no denoising steps; num_frames is the length of the prediction"),
    "num_videos_per_prompt": Foreign("pass num_samples"),
    "seed": Foreign("pass sampling=Sampling(seed=...), or generator"),
}

# What does here what people look for in a module.
MODULE_HINTS = {
    "bfloat16": "world.to(torch.bfloat16) converts both networks",
    "cpu": 'world.to("cpu") moves both networks',
    "cuda": 'world.to("cuda") moves both networks',
    "double": "world.to(torch.float64) converts both networks",
    "dtype": "world.transformer.dtype and world.vq_model.dtype tell them, and world.to(dtype) converts both networks",
    "float": "world.to(torch.float32) converts both networks",
    "generate": "world.rollout predicts frames, and world.transformer.generate tokens",
    "half": "world.to(torch.float16) converts both networks",
}


def refuse_foreign(given: Mapping[str, Any], known: Mapping[str, Foreign], *, also: str = "") -> None:
    """Refuse arguments that a call does not have, unless they change nothing.

    Args:
        given: arguments that the call does not have.
        known: those of other libraries.
        also: what else to say of the arguments that the call has.

    Raises:
        ValueError: naming the arguments, and what to pass instead.
    """
    wrong = [
        name
        for name, value in given.items()
        if name not in known or not any(value is harmless for harmless in known[name].harmless)
    ]
    if wrong:
        hints = [f"{name}: {known[name].instead}" for name in wrong if name in known]
        raise ValueError("; ".join([f"unknown arguments {wrong}", *hints, *([also] if also else [])]))


def refuse_mixins(config: None, model_card_kwargs: None) -> None:
    """Refuse what `huggingface_hub.ModelHubMixin` takes and a world model has otherwise.

    Raises:
        ValueError: if one is not None; says what to do instead.
    """
    if config is not None:
        raise ValueError("the networks' own configs are saved: change world.transformer.config, and leave config out")
    if model_card_kwargs is not None:
        raise ValueError("a card is made of its text: pass card=CardText(...), and leave model_card_kwargs out")

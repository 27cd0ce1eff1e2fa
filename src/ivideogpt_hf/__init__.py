"""iVideoGPT, the interactive world model (Wu et al., NeurIPS 2024), for the Hugging Face ecosystem.

Public names are imported when they are first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import registration

if TYPE_CHECKING:
    from .checkpoints.layout import EXAMPLE_EPISODE
    from .data.clips.dataset import SegmentDataset
    from .data.clips.loader import ClipLoader, load_clips
    from .data.clips.mixture import Mixture, Source, load_mixture
    from .data.clips.segments import SegmentSpec
    from .data.episodes import Episode
    from .data.readers import open_episodes
    from .decoding.sampling import Sampling
    from .environment import WorldModelEnv, WorldModelVectorEnv
    from .media.actions import read_actions
    from .media.video import read_video, side_by_side, write_video
    from .models.configuration_ivideogpt import IVideoGPTConfig
    from .models.configuration_ivideogpt_vq import IVideoGPTVQConfig
    from .models.modeling_ivideogpt import IVideoGPTForCausalLM, IVideoGPTOutput
    from .models.modeling_ivideogpt_vq import IVideoGPTVQModel, IVideoGPTVQOutput, VQContext
    from .models.processing_ivideogpt import IVideoGPTVideoProcessor
    from .models.token_layout import TokenLayout
    from .pipeline import IVideoGPTPipeline, IVideoGPTPipelineOutput
    from .planning.costs import RolloutCost
    from .planning.planners import CEM, ICEM, MPPI, Plan, RandomShooting
    from .planning.policy import PlannerPolicy
    from .serving.client import RemoteState, RemoteWorldModel
    from .spec import WorldModelSpec
    from .world.options import RolloutOptions
    from .world.protocol import World, imagine
    from .world.results import Observation, Rollout, RolloutStatistics, Step
    from .world.state import WorldState
    from .world.world_model import WorldModel

__version__ = "0.1.0"

_HOMES = {
    "media.actions": ("read_actions",),
    "checkpoints.layout": ("EXAMPLE_EPISODE",),
    "data.clips.dataset": ("SegmentDataset",),
    "data.episodes": ("Episode",),
    "data.clips.loader": ("ClipLoader", "load_clips"),
    "data.clips.mixture": ("Mixture", "Source", "load_mixture"),
    "data.readers": ("open_episodes",),
    "data.clips.segments": ("SegmentSpec",),
    "environment": ("WorldModelEnv", "WorldModelVectorEnv"),
    "media.video": ("read_video", "side_by_side", "write_video"),
    "models.configuration_ivideogpt": ("IVideoGPTConfig",),
    "models.configuration_ivideogpt_vq": ("IVideoGPTVQConfig",),
    "models.modeling_ivideogpt": ("IVideoGPTForCausalLM", "IVideoGPTOutput"),
    "models.modeling_ivideogpt_vq": ("IVideoGPTVQModel", "IVideoGPTVQOutput", "VQContext"),
    "models.processing_ivideogpt": ("IVideoGPTVideoProcessor",),
    "models.token_layout": ("TokenLayout",),
    "pipeline": ("IVideoGPTPipeline", "IVideoGPTPipelineOutput"),
    "planning.costs": ("RolloutCost",),
    "planning.planners": ("CEM", "ICEM", "MPPI", "Plan", "RandomShooting"),
    "planning.policy": ("PlannerPolicy",),
    "world.options": ("RolloutOptions",),
    "world.protocol": ("World", "imagine"),
    "world.results": ("Observation", "Rollout", "RolloutStatistics", "Step"),
    "decoding.sampling": ("Sampling",),
    "serving.client": ("RemoteState", "RemoteWorldModel"),
    "world.world_model": ("WorldModel",),
    "world.state": ("WorldState",),
    "spec": ("WorldModelSpec",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (in the order of _HOMES)
    "read_actions",
    "EXAMPLE_EPISODE",
    "SegmentDataset",
    "Episode",
    "ClipLoader",
    "load_clips",
    "Mixture",
    "Source",
    "load_mixture",
    "open_episodes",
    "SegmentSpec",
    "WorldModelEnv",
    "WorldModelVectorEnv",
    "read_video",
    "side_by_side",
    "write_video",
    "IVideoGPTConfig",
    "IVideoGPTVQConfig",
    "IVideoGPTForCausalLM",
    "IVideoGPTOutput",
    "IVideoGPTVQModel",
    "IVideoGPTVQOutput",
    "VQContext",
    "IVideoGPTVideoProcessor",
    "TokenLayout",
    "IVideoGPTPipeline",
    "IVideoGPTPipelineOutput",
    "RolloutCost",
    "CEM",
    "ICEM",
    "MPPI",
    "Plan",
    "RandomShooting",
    "PlannerPolicy",
    "RolloutOptions",
    "World",
    "imagine",
    "Observation",
    "Rollout",
    "RolloutStatistics",
    "Step",
    "Sampling",
    "RemoteState",
    "RemoteWorldModel",
    "WorldModel",
    "WorldModelSpec",
    "WorldState",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    if _HOME_OF[name].startswith("models."):
        registration.register_models()
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


registration.register_on_first_use()

"""iVideoGPT, the interactive world model (Wu et al., NeurIPS 2024), for the Hugging Face ecosystem.

Public names are imported when they are first used, so that importing the package costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import registration

if TYPE_CHECKING:
    from .action_files import read_actions
    from .checkpoints import EXAMPLE_EPISODE
    from .data.dataset import SegmentDataset
    from .data.episodes import Episode
    from .data.loader import ClipLoader, load_clips
    from .data.mixture import Mixture, Source, load_mixture
    from .data.readers import open_episodes
    from .data.segments import SegmentSpec
    from .environment import WorldModelEnv, WorldModelVectorEnv
    from .media import read_video, side_by_side, write_video
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
    from .rollout import Observation, Rollout, RolloutStatistics, Step
    from .sampling import Sampling
    from .serving.client import RemoteState, RemoteWorldModel
    from .world_model import WorldModel
    from .world_state import WorldModelSpec, WorldState

__version__ = "0.1.0"

_HOMES = {
    "action_files": ("read_actions",),
    "checkpoints": ("EXAMPLE_EPISODE",),
    "data.dataset": ("SegmentDataset",),
    "data.episodes": ("Episode",),
    "data.loader": ("ClipLoader", "load_clips"),
    "data.mixture": ("Mixture", "Source", "load_mixture"),
    "data.readers": ("open_episodes",),
    "data.segments": ("SegmentSpec",),
    "environment": ("WorldModelEnv", "WorldModelVectorEnv"),
    "media": ("read_video", "side_by_side", "write_video"),
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
    "rollout": ("Observation", "Rollout", "RolloutStatistics", "Step"),
    "sampling": ("Sampling",),
    "serving.client": ("RemoteState", "RemoteWorldModel"),
    "world_model": ("WorldModel",),
    "world_state": ("WorldModelSpec", "WorldState"),
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

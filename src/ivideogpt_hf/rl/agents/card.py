"""The card of a pushed agent, which knows nothing of a run. That of a run is in `runs/publish.py`."""

from __future__ import annotations

import numpy as np
from huggingface_hub import ModelCard, ModelCardData

from ...extras import require_packages

require_packages("stable_baselines3", purpose="reinforcement learning")

from stable_baselines3.common.base_class import BaseAlgorithm  # noqa: E402

CARD = """---
{metadata}
---

# {name}

An agent that acts on images: DrQ-v2, trained for {num_timesteps:,} steps. It sees the last {num_stack} frames of
{height} x {width} pixels, and its actions have the width {action_dim}.

```python
from huggingface_hub import hf_hub_download
from ivideogpt_hf.rl.agents.drqv2 import DrQv2

agent = DrQv2.load(hf_hub_download("{repo_id}", "{file}"))
actions, _ = agent.predict(observations, deterministic=True)  # (n, {channels}, {height}, {width}) uint8
```

The file is one of stable-baselines3, which runs code when it is loaded: load it only if you trust its author.
"""


def agent_card(agent: BaseAlgorithm, repo_id: str, file: str) -> ModelCard:
    """The card of a DrQ-v2 agent.

    Args:
        agent: agent, whose observations are stacks of frames.
        repo_id: Hub id of its repository.
        file: name of its file there.
    """
    channels, height, width = agent.observation_space.shape or ()
    data = ModelCardData(
        library_name="stable-baselines3",
        pipeline_tag="reinforcement-learning",
        tags=["ivideogpt", "drqv2", "arxiv:2107.09645"],
    )
    content = CARD.format(
        metadata=data.to_yaml(),
        name=repo_id.rsplit("/", 1)[-1],
        num_timesteps=agent.num_timesteps,
        num_stack=channels // 3,
        channels=channels,
        height=height,
        width=width,
        action_dim=int(np.prod(agent.action_space.shape or ())),
        repo_id=repo_id,
        file=file,
    )
    return ModelCard(content)

"""A world model that somebody else serves, with the methods of `WorldModel` that rollouts need."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from ..decoding.sampling import Sampling
from ..extras import require_packages
from ..spec import WorldModelSpec
from ..world import checks as inputs
from ..world.engine import HorizonPolicy
from ..world.results import Rollout, Step
from .messages import frames_to_text, text_to_frames

TIMEOUT_SECONDS = 300.0
TOKEN_VARIABLE = "IVIDEOGPT_SERVER_TOKEN"


class RemoteState:
    """B worlds on a server. It is forgotten there when nothing here holds it any more.

    Args:
        world: where it lives.
        number: of it there.
        batch_size: B.
    """

    def __init__(self, world: RemoteWorldModel, number: int, batch_size: int) -> None:
        self.world, self.number, self.batch_size = world, number, batch_size
        weakref.finalize(self, world._forgotten.append, number)

    def fork(self, num_branches: int) -> RemoteState:
        """See `WorldState.fork`."""
        return self.world._state_of(self.world._call("fork", state=self.number, num_branches=num_branches))

    def index(self, rows: Sequence[int] | Tensor) -> RemoteState:
        """See `WorldState.index`."""
        rows = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        return self.world._state_of(self.world._call("index", state=self.number, rows=rows))


class RemoteWorldModel:
    """Speaks to ``ivideogpt serve``. What it takes, gives and raises is as of `WorldModel`, but that states are
    `RemoteState` and tensors are on the CPU.

    Args:
        url: such as "http://127.0.0.1:8000".
        token: that the server asks for; None: the environment variable IVIDEOGPT_SERVER_TOKEN, if it is set.
        timeout: seconds to wait for an answer.

    Raises:
        OSError: if the server cannot be reached or refuses; the message tells its reason.
        ImportError: without httpx; names the extra.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        require_packages("httpx", purpose="a served world model")
        import httpx

        token = token or os.environ.get(TOKEN_VARIABLE)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._errors = httpx.HTTPError
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._forgotten: list[int] = []
        fields = self._request("GET", "/v1/spec")
        self.checkpoint: str = fields.pop("checkpoint")
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        self.spec = WorldModelSpec(**tuples)
        self._session: str = self._request("POST", "/v1/sessions")["session"]

    def close(self) -> None:
        """End the session; its states are gone."""
        self._request("DELETE", f"/v1/sessions/{self._session}")
        self._http.close()

    def __enter__(self) -> RemoteWorldModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what a world model does --------------------------------------------------------------------------------------

    def reset(self, frames: Tensor) -> RemoteState:
        """See `WorldModel.reset`."""
        inputs.check_frames(frames, self.spec)
        return self._state_of(self._call("reset", frames=[frames_to_text(clip) for clip in frames]))

    def step(
        self,
        state: RemoteState,
        action: Tensor | None = None,
        *,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards"),
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> tuple[Step, RemoteState]:
        """See `WorldModel.step`."""
        action = inputs.check_actions(action, (state.batch_size,), self.spec)
        inputs.check_outputs(outputs, inputs.STEP_OUTPUTS)
        answer = self._call(
            "step",
            state=state.number,
            actions=None if action is None else action.tolist(),
            sampling=_as_message(sampling),
            outputs=sorted({*outputs, "tokens"}),
            horizon_policy=horizon_policy,
        )
        step = Step(
            frame=None if answer["frames"] is None else text_to_frames(answer["frames"]),
            reward=None if answer["rewards"] is None else torch.tensor(answer["rewards"]),
            tokens=torch.tensor(answer["tokens"]),
            log_prob=torch.tensor(answer["log_probs"]),
        )
        return step, self._state_of(answer)

    def observe(self, state: RemoteState, action: Tensor | None, frame: Tensor) -> RemoteState:
        """See `WorldModel.observe`."""
        inputs.check_actions(action, (state.batch_size,), self.spec)
        inputs.check_observed_frame(frame, state.batch_size, self.spec)
        return self._state_of(self._call("observe", state=state.number, frames=frames_to_text(frame)))

    def rollout(
        self,
        frames: Tensor | RemoteState,
        actions: Tensor | None = None,
        *,
        num_frames: int | None = None,
        num_samples: int | None = None,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards", "tokens"),
        decode_steps: Literal["all", "last"] | Sequence[int] = "all",
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> Rollout:
        """See `WorldModel.rollout`; the state at the end stays on the server, and is None here."""
        inputs.check_outputs(outputs, inputs.STEP_OUTPUTS)
        state = frames if isinstance(frames, RemoteState) else self.reset(frames)
        planned, _, _ = inputs.plan_candidates(actions, state.batch_size, num_frames, num_samples, self.spec)
        answer = self._call(
            "rollout",
            state=state.number,
            actions=None if actions is None else actions.float().tolist(),
            num_frames=num_frames,
            num_samples=num_samples,
            sampling=_as_message(sampling),
            outputs=list(outputs),
            decode_steps=decode_steps if isinstance(decode_steps, str) else list(decode_steps),
            horizon_policy=horizon_policy,
        )
        shape, leading = answer["shape"], answer["shape"][:-1]
        decoded = answer["frames"]
        return Rollout(
            frames=None if decoded is None else text_to_frames(decoded).unflatten(0, (*leading, -1)),
            rewards=None if answer["rewards"] is None else torch.tensor(answer["rewards"]).view(shape),
            tokens=None if answer["tokens"] is None else torch.tensor(answer["tokens"]).view(*shape, -1),
            log_probs=torch.tensor(answer["log_probs"]).view(shape),
            actions=None if planned is None else planned.view(*shape, -1),
            decoded_steps=tuple(answer["decoded_steps"]),
            reanchored_at=tuple(answer["reanchored_at"]),
            state=None,
        )

    # -- the wire -----------------------------------------------------------------------------------------------------

    def _state_of(self, answer: dict[str, Any]) -> RemoteState:
        return RemoteState(self, answer["state"], answer["num_rows"])

    def _call(self, call: str, **fields: Any) -> dict[str, Any]:
        if self._forgotten:
            states = self._forgotten[:]
            del self._forgotten[: len(states)]
            self._request("POST", f"/v1/sessions/{self._session}/forget", states)
        return self._request("POST", f"/v1/sessions/{self._session}/{call}", fields)

    def _request(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=content)
        except self._errors as error:
            raise OSError(f"the server {self._http.base_url} cannot be reached: {error}") from error
        if response.is_success:
            return response.json() if response.content else {}
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError):
            detail = response.text
        if response.status_code in (400, 422):
            raise ValueError(f"the server refuses: {detail}")
        raise OSError(f"the server answers {response.status_code}: {detail}")


def _as_message(sampling: Sampling | None) -> dict[str, Any]:
    fields = asdict(sampling or Sampling())
    left_out = {"restrict_to_codes": True, "num_guesses": 0}
    different = [name for name, value in left_out.items() if fields.pop(name) != value]
    if different:
        raise ValueError(f"a served world model takes no {', '.join(different)}")
    if not isinstance(fields["seed"], (int, type(None))):
        fields["seed"] = list(fields["seed"])
    return fields

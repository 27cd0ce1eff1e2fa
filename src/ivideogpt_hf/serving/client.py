"""A client for a world that another process serves."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ..decoding.sampling import Sampling, check_count
from ..extras import require_packages
from ..spec import WorldModelSpec
from ..world.checks import check_actions, check_frames, check_observed_frame, check_reward_head, resolve_futures
from ..world.options import STEP_OUTPUTS, DecodeSteps, HorizonPolicy, RolloutOptions, check_outputs
from ..world.protocol import OnStep, Policy, imagine, is_end
from ..world.results import Observation, Requested, Rollout, Step
from ..world.state import whole_rows
from .defaults import CALL_SECONDS, TOKEN_VARIABLE
from .messages import frames_to_text, text_to_frames

LOST = "the state was lost, since the server was restarted or its session expired: reset the world again"


class LostSessionError(OSError):
    """The server does not know the session or the state any more: it was restarted, or the session has expired."""


class RemoteState:
    """B worlds on a server. It is forgotten there when nothing here holds it any more.

    Args:
        world: world that the state belongs to.
        session: name of the session in which it lives.
        number: number of the state in the session.
        num_frames: number of frames since its context, of each row.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RemoteWorldModel, read_actions, read_video
        >>> world = RemoteWorldModel("http://127.0.0.1:8000")  # where `ivideogpt serve` runs
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> branches = state.fork(3)
        >>> branches.batch_size
        3
        >>> world.close()
    """

    def __init__(self, world: RemoteWorldModel, session: str, number: int, num_frames: Sequence[int]) -> None:
        self.world, self.session, self.number, self.num_frames = world, session, number, tuple(num_frames)
        weakref.finalize(self, world._forgotten.append, (session, number))

    @property
    def batch_size(self) -> int:
        """Number of rows B."""
        return len(self.num_frames)

    def fork(self, num_branches: int) -> RemoteState:
        """See `WorldState.fork`."""
        return self.world._state_call("fork", self, num_branches=check_count(num_branches, "num_branches"))

    def index(self, rows: Sequence[int] | Tensor) -> RemoteState:
        """See `WorldState.index`."""
        return self.world._state_call("index", self, rows=whole_rows(rows))

    @staticmethod
    def cat(states: Sequence[RemoteState]) -> RemoteState:
        """See `WorldState.cat`; the states must be of one client.

        Raises:
            ValueError: if there is nothing to join, or the states are of different clients.
        """
        if not states:
            raise ValueError("RemoteState.cat needs at least one state")
        world = states[0].world
        if any(state.world is not world for state in states):
            raise ValueError("states of different clients cannot be joined: they may live on different servers")
        return world._cat(states)


class RemoteWorldModel:
    """A world that ``ivideogpt serve`` serves: a `World`, like `WorldModel`.

    Arguments, results and errors are those of `WorldModel`, but that states are `RemoteState` and tensors are on the
    CPU. A server that was restarted has forgotten all states: using one is a `LostSessionError`, and `reset` begins a
    new session. Where it was restarted with its ``--state-dir``, states of before go on.

    Args:
        url: address such as "http://127.0.0.1:8000".
        token: token that the server asks for; None: the environment variable IVIDEOGPT_SERVER_TOKEN, if it is set.
        timeout: number of seconds to wait for an answer.

    Raises:
        OSError: if the server cannot be reached or refuses; the message tells its reason.
        ImportError: without httpx; names the extra.

    Example:
        >>> from ivideogpt_hf import EXAMPLE_EPISODE, RemoteWorldModel, read_actions, read_video
        >>> world = RemoteWorldModel("http://127.0.0.1:8000")  # where `ivideogpt serve` runs
        >>> state = world.reset(read_video(EXAMPLE_EPISODE, max_frames=2)[None])
        >>> step, state = world.step(state, read_actions(EXAMPLE_EPISODE)[1:2])
        >>> step.frame.shape
        torch.Size([1, 3, 64, 64])
        >>> world.close()
    """

    device = torch.device("cpu")

    def __init__(self, url: str, *, token: str | None = None, timeout: float = CALL_SECONDS) -> None:
        require_packages("httpx", purpose="a served world model")
        import httpx

        token = token or os.environ.get(TOKEN_VARIABLE)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._errors = httpx.HTTPError
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._forgotten: list[tuple[str, int]] = []
        self.checkpoint, self.spec = self._served()
        self._session = self._open_session()

    def close(self) -> None:
        """End the session; its states are gone."""
        try:
            # A server that was restarted has ended it; one that is not there will, after a while.
            with suppress(LostSessionError, ConnectionError):
                self._request("DELETE", f"/v1/sessions/{self._session}")
        finally:
            self._http.close()

    def __enter__(self) -> RemoteWorldModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what a world does --------------------------------------------------------------------------------------------

    def reset(self, frames: Tensor) -> RemoteState:
        """See `WorldModel.reset`. Begins a new session if the server has lost the last one.

        Raises:
            OSError: if the server was restarted with another checkpoint.
        """
        check_frames(frames, self.spec)
        content = [frames_to_text(clip) for clip in frames]
        try:
            answer = self._call("reset", frames=content)
        except LostSessionError:
            self._check_checkpoint()
            self._session = self._open_session()
            answer = self._call("reset", frames=content)
        return self._state_of(answer)

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
        action = check_actions(action, (state.batch_size,), self.spec)
        check_reward_head(check_outputs(outputs, STEP_OUTPUTS), self.spec)
        answer = self._call(
            "step",
            state=self._number_of(state),
            actions=None if action is None else action.tolist(),
            sampling=_as_message(sampling or Sampling()),
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
        check_actions(action, (state.batch_size,), self.spec)
        check_observed_frame(frame, state.batch_size, self.spec)
        return self._state_call("observe", state, frames=frames_to_text(frame))

    def last_frame(self, state: RemoteState) -> Tensor:
        """See `WorldModel.last_frame`."""
        return text_to_frames(self._call("show", state=self._number_of(state))["frames"])

    def rollout(
        self,
        frames: Tensor | RemoteState,
        actions: Tensor | Policy | None = None,
        *,
        num_frames: int | None = None,
        num_samples: int | None = None,
        sampling: Sampling | None = None,
        outputs: Sequence[str] = ("frames", "rewards", "tokens"),
        decode_steps: DecodeSteps = "all",
        horizon_policy: HorizonPolicy = "reanchor",
        on_step: OnStep | None = None,
    ) -> Rollout:
        """See `WorldModel.rollout`; the state at the end stays on the server, and is None here.

        One call predicts everything, unless a policy or ``on_step`` looks at each step: then each step is a call.
        """
        options = RolloutOptions(
            sampling or Sampling(), check_outputs(outputs, STEP_OUTPUTS), decode_steps, horizon_policy
        )
        check_reward_head(options.outputs, self.spec)
        state = frames if isinstance(frames, RemoteState) else self.reset(frames)
        futures = resolve_futures(actions, state.batch_size, num_frames, num_samples, self.spec)
        if callable(actions) or on_step is not None:
            acts = actions if callable(actions) else futures.actions
            num_candidates = futures.num_candidates or 1
            state = state.fork(num_candidates) if num_candidates > 1 else state
            options = replace(options, sampling=_for_all_steps(options.sampling, num_candidates))
            rollout = self._rollout_by_steps(state, acts, futures.num_frames, options, on_step)
            return rollout if futures.num_candidates is None else rollout.split_candidates(num_candidates)
        answer = self._call(
            "rollout",
            state=self._number_of(state),
            actions=None if actions is None else actions.float().tolist(),
            num_frames=futures.num_frames if actions is None else None,
            num_samples=None if num_samples is None else futures.num_candidates,
            sampling=_as_message(options.sampling),
            outputs=sorted(options.outputs),
            decode_steps=options.decode_steps,
            horizon_policy=horizon_policy,
        )
        shape, leading = answer["shape"], answer["shape"][:-1]
        decoded = answer["frames"]
        return Rollout(
            frames=None if decoded is None else text_to_frames(decoded).unflatten(0, (*leading, -1)),
            rewards=None if answer["rewards"] is None else torch.tensor(answer["rewards"]).view(shape),
            tokens=None if answer["tokens"] is None else torch.tensor(answer["tokens"]).view(*shape, -1),
            log_probs=torch.tensor(answer["log_probs"]).view(shape),
            actions=None if futures.actions is None else futures.actions.view(*shape, -1),
            decoded_steps=tuple(answer["decoded_steps"]),
            reanchored_at=tuple(answer["reanchored_at"]),
            state=None,
        )

    def imagine(
        self,
        state: RemoteState,
        policy: Policy | Tensor,
        horizon: int,
        *,
        sampling: Sampling | None = None,
        horizon_policy: HorizonPolicy = "reanchor",
    ) -> Rollout:
        """See `ivideogpt_hf.imagine`."""
        return imagine(self, state, policy, horizon, sampling=sampling, horizon_policy=horizon_policy)

    def _rollout_by_steps(
        self,
        state: RemoteState,
        actions: Tensor | Policy | None,
        num_frames: int,
        options: RolloutOptions,
        on_step: OnStep | None,
    ) -> Rollout:
        """Do what a rollout does on the server, with one call per step, since the caller looks at each step."""
        decode_steps, names = options.steps_to_decode(num_frames), set(options.outputs) - {"frames"}
        if not self.spec.has_reward:
            names -= {"rewards"}  # of a step without a frame, nothing else might be left
        frame: Requested = self.last_frame(state) if callable(actions) else None
        steps: list[Step] = []
        actions_taken: list[Tensor] = []
        reanchored_at = []
        for i in range(num_frames):
            action = None if actions is None or callable(actions) else actions[:, i]
            if callable(actions):
                action = actions(Observation(frame, steps[-1].reward if steps else None, i, state))
            if max(state.num_frames) >= self.spec.max_future_frames:
                reanchored_at.append(i)
            shows = {"frames"} if callable(actions) or i in decode_steps else set()
            step, state = self.step(
                state,
                action,
                sampling=options.sampling,
                outputs=tuple(names | shows),
                horizon_policy=options.horizon_policy,
            )
            frame = step.frame
            steps.append(step if i in decode_steps else replace(step, frame=None))
            if action is not None:
                actions_taken.append(action.float().clone())  # a policy may return the same tensor each time
            if on_step is not None and is_end(on_step(i, steps[-1])):
                break
        if options.shows_last and steps[-1].frame is None:  # it ended early
            steps[-1] = replace(steps[-1], frame=self.last_frame(state) if frame is None else frame)
        decoded = [number for number, step in enumerate(steps) if step.frame is not None]
        rollout = Rollout.of_steps(
            steps,
            frames=torch.stack([steps[number].frame for number in decoded], dim=1) if decoded else None,
            actions=torch.stack(actions_taken, dim=1) if actions_taken else None,
            decoded_steps=tuple(decoded),
            reanchored_at=reanchored_at,
            state=None,
        )
        return rollout if "tokens" in options.outputs else replace(rollout, tokens=None)

    # -- the wire -----------------------------------------------------------------------------------------------------

    def _served(self) -> tuple[str, WorldModelSpec]:
        """The checkpoint's name, and the spec."""
        fields = self._request("GET", "/v1/spec")
        tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
            if name not in ("checkpoint", "num_starts")
        }
        try:
            return fields["checkpoint"], WorldModelSpec(**tuples)
        except (KeyError, TypeError) as error:  # fields that are missing, or that no world has
            raise self._no_server() from error

    def _check_checkpoint(self) -> None:
        checkpoint, spec = self._served()
        if (checkpoint, spec) != (self.checkpoint, self.spec):
            raise OSError(
                f"the server was restarted with another checkpoint, {checkpoint} instead of {self.checkpoint}: make a "
                f"new RemoteWorldModel"
            )

    def _open_session(self) -> str:
        return self._request("POST", "/v1/sessions")["session"]

    def _state_of(self, answer: dict[str, Any]) -> RemoteState:
        return RemoteState(self, self._session, answer["state"], answer["num_frames"])

    def _number_of(self, state: RemoteState) -> int:
        """The number under which the server knows a state.

        Raises:
            LostSessionError: if the state is of an earlier session. Its number may be another state's in this one.
        """
        if state.session != self._session:
            raise LostSessionError(LOST)
        return state.number

    def _state_call(self, call: str, state: RemoteState, **fields: Any) -> RemoteState:
        return self._state_of(self._call(call, state=self._number_of(state), **fields))

    def _cat(self, states: Sequence[RemoteState]) -> RemoteState:
        return self._state_of(self._call("cat", states=[self._number_of(state) for state in states]))

    def _call(self, call: str, **fields: Any) -> dict[str, Any]:
        # Threads and finalizers append to this list. Only what was copied here is deleted.
        forgotten = self._forgotten[:]
        del self._forgotten[: len(forgotten)]
        numbers = [number for session, number in forgotten if session == self._session]
        if numbers:
            self._request("POST", f"/v1/sessions/{self._session}/forget", numbers)
        return self._request("POST", f"/v1/sessions/{self._session}/{call}", fields)

    def _request(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=content)
        except self._errors as error:
            raise ConnectionError(f"the server {self._http.base_url} cannot be reached: {error}") from error
        try:
            answer = response.json() if response.content else {}
        except ValueError:  # it is no JSON
            answer = None
        if response.is_success:
            if not isinstance(answer, dict):
                raise self._no_server()
            return answer
        detail, is_lost = response.text, False
        if isinstance(answer, dict) and "detail" in answer:
            detail, is_lost = answer["detail"], answer.get("lost", False)
        if response.status_code in (400, 422):
            raise ValueError(f"the server refuses: {detail}")
        if is_lost:
            raise LostSessionError(LOST)
        raise OSError(f"the server answers {response.status_code}: {detail}")

    def _no_server(self) -> OSError:
        return OSError(
            f"what answers at {self._http.base_url} is no world that `ivideogpt serve` of this version serves: is the "
            f"address right?"
        )


def _for_all_steps(sampling: Sampling, num_candidates: int) -> Sampling:
    """The sampling of each step of a rollout: one seed for all of them, and one for each candidate's row."""
    if sampling.seed is None:
        return replace(sampling, seed=int(sampling.row_seeds(1, torch.device("cpu"))))
    if isinstance(sampling.seed, int):
        return sampling
    return replace(sampling, seed=[seed for seed in sampling.seed for _ in range(num_candidates)])


def _as_message(sampling: Sampling) -> dict[str, Any]:
    fields = asdict(sampling)
    not_served = {"restrict_to_codes": True, "num_guesses": 0}
    refused = [name for name, value in not_served.items() if fields.pop(name) != value]
    if refused:
        raise ValueError(f"a served world model takes no {', '.join(refused)}")
    return fields

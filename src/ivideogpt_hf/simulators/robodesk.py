"""RoboDesk tasks as visual planning (VP2) uses them. Rendering off screen without shadows is twenty times as fast."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..extras import require_packages
from . import mujoco_state
from .base import Simulator, Transition, choose_renderer

ACTION_REPEAT = 50  # steps of 20 ms: an action lasts a second
MIN_RENDERED_SIZE = 120  # pixels; the crop box belongs to a picture of this size
CROP_BOX = (16.75, 25.0, 105.0, 88.75)  # left, top, right, bottom
FLOOR_HEIGHT = 0.6  # a block below this has left the table
# A full action moves the hand by 8 cm. With this gain the hand is where it should be after one action.
GAIN, MIN_ACTION = 12.0, 0.1
FINGER_LENGTH = 0.05  # distance from the environment's "end effector" to the fingertips
TABLE_HEIGHT, TABLE_EDGE = 0.76, 0.575  # z of its top, and y of its edge on the side of the robot
BLOCK_HALF_SIZES = {"flat_block": (0.08, 0.035, 0.015), "upright_block": (0.023, 0.023, 0.09)}


class RoboDeskSimulator(Simulator):
    """A RoboDesk task, such as "push_red"; an action is a second of the simulation, as in VP2.

    Actions: hand displacement x, y, z (1 is 8 cm), rotation of the wrist, gripper (-1 closed). The reward is the dense
    one, summed over the second: 0 to 50. Success is the environment's own test, except that a block pushed off the
    table counts whatever happens to the others: so does VP2. An episode never ends by itself.

    VP2's seven tasks have scripted experts. Episodes that they solved, without noise, in 15 actions and in 25: the
    three buttons all of 20; open_slide 2 and 8 of 12 (the arm yields to the door and pushes it 4 cm an action);
    flat_block_off_table 7 and 8, upright_block_off_table 4 and 9, open_drawer 0 and 1 of 12.

    Args:
        task: name of the task.
        size: side of the frames, in pixels.

    Raises:
        ImportError: without robodesk; names the extra.
        ValueError: if there is no such task.
    """

    action_names = ("x", "y", "z", "wrist", "gripper")

    def __init__(self, task: str, size: int) -> None:
        choose_renderer()
        with contextlib.redirect_stderr(io.StringIO()):  # gym advises to use gymnasium, but robodesk needs gym
            require_packages("robodesk", purpose="RoboDesk")
        import mujoco
        from robodesk import RoboDesk

        environment_class = type("CorrectedRoboDesk", (_Corrections, RoboDesk), {})
        self._environment = environment_class(
            task, "dense", action_repeat=ACTION_REPEAT, episode_length=0, image_size=size
        )
        if task not in self._environment.all_tasks:
            raise ValueError(f"RoboDesk has no task {task!r}; it has {', '.join(sorted(self._environment.all_tasks))}")
        self._mujoco = mujoco
        self.task = task.replace("_", " ")
        self._task = task
        self.action_low, self.action_high = np.full(5, -1, np.float32), np.full(5, 1, np.float32)

    def reset(self, seed: int) -> None:
        if self._environment.renderer is None:
            self._environment.set_up_renderer(self._mujoco)
        # The environment draws from numpy's global generator, which belongs to the caller.
        state = np.random.get_state()
        np.random.seed(seed % 2**32)
        try:
            self.observation = self._environment.reset()
        finally:
            np.random.set_state(state)
        self._expert = _Expert(self._environment.physics.named.data)

    def step(self, action: np.ndarray) -> Transition:
        self.observation, reward, _, _ = self._environment.step(action)
        return Transition(float(reward), self._is_solved(), done=False)

    def render(self) -> np.ndarray:
        return self.observation["image"]

    def _is_solved(self) -> bool:
        if self._task in ("upright_block_off_table", "flat_block_off_table"):
            block = self._task.removesuffix("_off_table")
            return bool(self._environment.physics.named.data.qpos[block][2] < FLOOR_HEIGHT)
        return bool(self._environment._get_task_reward(self._task, "success"))

    def get_state(self) -> Any:
        environment = self._environment
        physics, kinematics = environment.physics, environment.physics_copy
        simulation = mujoco_state.save_state(environment, physics.model.ptr, physics.data.ptr)
        return simulation, kinematics.get_state(), self._expert._is_folded

    def set_state(self, state: Any) -> None:
        environment = self._environment
        physics, kinematics = environment.physics, environment.physics_copy
        simulation, positions, self._expert._is_folded = state
        mujoco_state.restore_state(simulation, environment, physics.model.ptr, physics.data.ptr)
        with kinematics.reset_context():  # inverse kinematics begin where they ended
            kinematics.set_state(positions)
        self.observation = environment._get_obs()

    def expert_action(self) -> np.ndarray:
        kind, _, target = self._task.partition("_")
        if kind == "push":
            return self._expert.push_button(target)
        if self._task == "open_slide":
            return self._expert.open_slide()
        if self._task == "open_drawer":
            return self._expert.open_drawer()
        if self._task == "upright_block_off_table":
            return self._expert.sweep_off_table("upright_block")
        if self._task == "flat_block_off_table":
            return self._expert.drag_off_table("flat_block")
        return super().expert_action()

    def close(self) -> None:
        self._environment.close()


class _Corrections:
    """Corrections of what is wrong or slow in ``robodesk.RoboDesk``, a base class to stand before it."""

    renderer: Any = None

    def set_up_renderer(self, mujoco: Any) -> None:
        """Make the renderer of all frames. The original makes one for every frame."""
        side = max(MIN_RENDERED_SIZE, self.image_size)
        model = self.physics.model.ptr
        model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = side
        self.renderer = mujoco.Renderer(model, side, side)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[flag] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 1.8, 90, -60
        self._camera.lookat[:] = 0, 0.535, 1.1
        self._crop_box = [edge * side / MIN_RENDERED_SIZE for edge in CROP_BOX]

    def render(self, mode: str = "rgb_array", resize: bool = True) -> np.ndarray:
        """Draw the current state, (H, W, 3) uint8; with ``resize``, cropped and at the size of the frames."""
        self.renderer.update_scene(self.physics.data.ptr, camera=self._camera)
        pixels = self.renderer.render()
        if not resize:
            return pixels
        size = (self.image_size, self.image_size)
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, box=self._crop_box))

    def reset(self) -> dict[str, np.ndarray]:
        """Reset as the original does, and copy the blocks' positions. The original stores views of them, so that no
        block ever seems to move."""
        observation = super().reset()
        self.original_pos = {block: position.copy() for block, position in self.original_pos.items()}
        return observation

    def _get_obs(self) -> dict[str, np.ndarray]:
        # The original returns velocities in place of positions, and a view of the hand's position.
        observation = super()._get_obs()
        observation["qpos_objects"] = self.physics.data.qpos[self.num_joints :].copy()
        observation["end_effector"] = observation["end_effector"].copy()
        return observation

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()


class _Expert:
    """Proportional controllers: the fingertips move to a point that depends on the places of hand and object.

    The robot stands at y = 0.1 and looks along y; z is up; lengths in metres. Each method returns an action (5,),
    not clipped.

    Args:
        data: named data of the simulation, which is read at each action.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._is_folded = False  # whether the hand has been bent back, for the drawer

    @property
    def _axis(self) -> np.ndarray:
        return self._data.site_xmat["end_effector"].reshape(3, 3)[:, 2]

    @property
    def _tip(self) -> np.ndarray:
        return self._data.site_xpos["end_effector"] + FINGER_LENGTH * self._axis

    def _move_to(self, *point: float) -> np.ndarray:
        """Move the fingertips towards a point, on a straight line, with the gripper closed."""
        action = GAIN * (np.array(point) - self._tip)
        largest = np.abs(action).max()
        action *= np.clip(largest, MIN_ACTION, 1) / max(largest, 1e-6)
        return np.array([*action, 0, -1], dtype=np.float32)

    def push_button(self, colour: str) -> np.ndarray:
        """Go above the button, then down."""
        x, y, z = self._data.xpos[f"{colour}_button"] + [0, 0, 0.03]  # its top
        is_above = np.hypot(*(self._tip[:2] - [x, y])) < 0.02
        return self._move_to(x, y, z - 0.03 if is_above else z + 0.06)

    def open_slide(self) -> np.ndarray:
        """Go to the left of the handle, around its front, then push to the right."""
        tip, (x, y, z) = self._tip, self._data.site_xpos["slide_handle"]
        if tip[0] > x - 0.015:  # here a move to the left would push the handle along: back off first
            return self._move_to(tip[0], 0.66, z) if tip[1] > 0.72 else self._move_to(x - 0.09, 0.71, z)
        if abs(tip[2] - z) > 0.06 or tip[1] < y - 0.03:
            return self._move_to(x - 0.06, y + 0.02, z)
        return self._move_to(x + 0.2, y + 0.02, z)

    def open_drawer(self) -> np.ndarray:
        """Bend the hand back at the edge of the table, reach down behind the handle, then pull.

        As it stands at first the arm is folded up before the drawer is open: with the hand bent towards the robot, it
        reaches farther back. Inverse kinematics that ignore the hand's direction let it bend when the tip is blocked.
        """
        tip = self._tip
        handle = 0.49 + self._data.qpos["drawer_joint"][0]
        if tip[1] < handle - 0.03 or abs(tip[0]) > 0.06 or tip[2] > 0.83:
            return self._move_to(0, 0.6 if tip[2] > 0.74 else handle + 0.05, 0.8)
        self._is_folded |= bool(self._axis[1] < 0)
        gap = handle + 0.045  # between the handle and the drawer's front
        if not self._is_folded:
            is_below_edge = tip[1] > 0.53 and abs(tip[2] - 0.725) < 0.03
            return self._move_to(0, tip[1] + 0.2 if is_below_edge else TABLE_EDGE - 0.015, 0.725)
        if tip[2] > 0.66:
            return self._move_to(0, gap, max(tip[2], 0.72) if abs(tip[1] - gap) > 0.02 else 0.61)
        return self._move_to(0, tip[1] - 0.15, 0.59)

    def _block(self, name: str) -> tuple[Sequence[float], Sequence[float]]:
        """Centre and half extents of a block along the axes, as it lies now."""
        return self._data.xpos[name], np.abs(self._data.xmat[name].reshape(3, 3)) @ BLOCK_HALF_SIZES[name]

    def sweep_off_table(self, name: str) -> np.ndarray:
        """Go to the left of a standing block, topple it to the right, and sweep it off that side of the table."""
        tip, (centre, extent) = self._tip, self._block(name)
        left_side = centre[0] - extent[0]
        height = 0.83 if centre[2] > 0.82 else TABLE_HEIGHT  # standing or lying
        if tip[2] < 0.79 and tip[1] < TABLE_EDGE + 0.045:  # below the edge of the table
            return self._move_to(left_side - 0.07, tip[1] - 0.03, 0.92)
        if (
            tip[0] > left_side + 0.03 and tip[1] > centre[1] - extent[1] - 0.02
        ):  # too far to the right: out to the front
            return self._move_to(tip[0] - 0.1, centre[1] - 0.2, max(tip[2], height))
        if tip[0] > left_side and tip[1] < centre[1] - 0.05:
            return self._move_to(left_side - 0.07, centre[1] - 0.15, height + 0.02)
        if tip[2] - height > 0.06 or tip[1] < centre[1]:
            return self._move_to(left_side - 0.04, centre[1] + 0.03, height)
        return self._move_to(tip[0] + 0.3, centre[1], height)

    def drag_off_table(self, name: str) -> np.ndarray:
        """Go over a flat block to behind it, then drag it over the edge on the robot's side."""
        tip, (centre, extent) = self._tip, self._block(name)
        back, top = centre[1] + extent[1], centre[2] + extent[2]
        if tip[1] < back - 0.02:
            if tip[2] < top + 0.05:
                return self._move_to(tip[0] + np.clip(centre[0] - tip[0], -0.05, 0.05), tip[1], top + 0.12)
            return self._move_to(centre[0], back + 0.06, top + 0.08)
        if abs(tip[0] - centre[0]) > 0.04 and tip[2] > top:
            return self._move_to(centre[0], back + 0.05, top + 0.06)
        is_down = tip[2] < TABLE_HEIGHT + 0.03
        return self._move_to(centre[0], tip[1] - 0.3 if is_down else back + 0.045, TABLE_HEIGHT)

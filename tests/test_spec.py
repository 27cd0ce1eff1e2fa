"""How a clip splits, and that nobody else knows it."""

import ast
import re
from pathlib import Path

import pytest
import torch

import ivideogpt_hf
from ivideogpt_hf.spec import check_clip, first_action, split_clip
from tests.conftest import build_world, random_actions, random_frames

PACKAGE = Path(ivideogpt_hf.__file__).parent
REPOSITORY = Path(__file__).parents[1]
SOURCES = [
    file for folder in (PACKAGE, REPOSITORY / "examples", REPOSITORY / "spaces_demo") for file in folder.rglob("*.py")
]


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_clip_splits_where_its_context_ends(batch):
    frames, actions = random_frames(*batch, 6), random_actions(*batch, 5, 3)
    clip = split_clip(frames, actions, num_context_frames=2)
    assert torch.cat([clip.context, clip.future], dim=-4).equal(frames)
    assert clip.context.shape[-4] == 2
    assert clip.actions.equal(actions[..., 1:, :])  # row 1 leads from frame 1, the last of the context, to frame 2


def test_each_future_frame_has_its_action():
    """Row t leads from frame t to frame t + 1, whatever is left out at the end."""
    num_frames = 9
    frames = torch.arange(num_frames, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    actions = torch.arange(num_frames)[:, None].float()  # one more row than lead anywhere
    for num_context in (1, 2, 4):
        for num_future in (None, 2, 100):
            clip = split_clip(frames, actions, num_context_frames=num_context, num_future_frames=num_future)
            assert len(clip.future) == min(num_future or num_frames, num_frames - num_context)
            assert (clip.future[:, 0, 0, 0] - 1).tolist() == clip.actions[:, 0].tolist()
            assert clip.actions[0, 0] == first_action(num_context)


def test_a_clip_without_actions_has_none():
    assert split_clip(random_frames(4), num_context_frames=2).actions is None


def test_a_clip_that_is_shorter_than_its_context_is_refused():
    with pytest.raises(ValueError, match="a clip has 2 frames, fewer than the 3 of the context"):
        split_clip(random_frames(2), num_context_frames=3)


@pytest.mark.parametrize(("num_frames", "num_context_frames"), [(3, 0), (3, 3), (3, 4), (1, 1)])
def test_a_clip_needs_context_and_future(num_frames, num_context_frames):
    with pytest.raises(ValueError, match=r"1 <= num_context_frames < num_frames, got"):
        check_clip(num_frames, num_context_frames)


def test_one_frame_of_each_is_enough():
    check_clip(2, 1)


@pytest.mark.parametrize("goal_conditioned", [False, True])
def test_the_goal_is_no_real_frame(goal_conditioned):
    spec = build_world(goal_conditioned=goal_conditioned).spec
    assert spec.num_context_frames == 2
    assert spec.num_goal_frames == goal_conditioned
    assert spec.num_real_context_frames == 2 - goal_conditioned
    assert spec.first_action == 1


def test_a_planner_gets_the_bounds_that_the_checkpoint_tells():
    known = {"action_low": [-1.0, -2.0], "action_high": [1.0, 2.0]}
    assert build_world(action_dim=2, processor=known).spec.action_bounds == ((-1.0, -2.0), (1.0, 2.0))
    with pytest.raises(ValueError, match="give the planner low and high, a number for each of the 2 dimensions"):
        _ = build_world(action_dim=2).spec.action_bounds


def arithmetic_of_clips(file):
    """Lines that subtract one, or a goal, from a number of context frames."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
            continue
        left, right = ast.unparse(node.left), ast.unparse(node.right)
        is_context = re.search(r"\bnum_context(_frames)?$", left) and isinstance(node.left, ast.Name | ast.Attribute)
        if (is_context and right == "1") or re.search(r"goal_conditioned\)?$", right):
            yield f"{file}:{node.lineno}"


def test_nobody_else_knows_how_a_clip_splits():
    assert len(SOURCES) > 100
    places = [place for file in SOURCES for place in arithmetic_of_clips(file)]
    assert places
    assert not [place for place in places if not place.startswith(f"{PACKAGE / 'spec.py'}:")]

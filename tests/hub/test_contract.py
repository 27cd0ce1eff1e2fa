"""Saving, pushing and loading take the arguments that `huggingface_hub.ModelHubMixin` promises."""

import inspect

import pytest
from huggingface_hub import ModelHubMixin

from ivideogpt_hf import WorldModel
from ivideogpt_hf.cards.model_card import CardText


def named(function):
    """Names of the arguments that are passed by name."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind == inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", ["from_pretrained", "save_pretrained", "push_to_hub"])
def test_every_argument_of_the_mixin_is_taken(name):
    assert named(getattr(ModelHubMixin, name)) <= named(getattr(WorldModel, name))


@pytest.mark.parametrize("options", [{"repo_id": "user/world"}, {"private": True}])
def test_options_of_an_upload_without_one_are_refused(world, tmp_path, options):
    with pytest.raises(ValueError, match="pass push_to_hub=True, or leave them out"):
        world.save_pretrained(tmp_path / "world", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"action_dim": 3}}, r"change world\.transformer\.config"),
        ({"model_card_kwargs": {"license": "mit"}}, r"pass card=CardText\(\.\.\.\)"),
    ],
)
def test_what_a_world_has_otherwise_is_none_or_refused(world, tmp_path, options, message):
    world.save_pretrained(tmp_path / "world", **dict.fromkeys(options))
    assert (tmp_path / "world").is_dir()
    for call in (world.push_to_hub, world.save_pretrained):
        with pytest.raises(ValueError, match=message):
            call(str(tmp_path / "other"), **options)
    assert not (tmp_path / "other").exists()


def test_two_names_of_the_branch_are_one_too_many(world):
    with pytest.raises(ValueError, match="two names of one thing"):
        world.push_to_hub("user/world", revision="a", branch="b", card=CardText("A"))

"""What is saved names code only where the code goes along, and arguments do not go unnoticed. Uploads are tested in
tests/hub."""

import json

import pytest

from ivideogpt_hf import WorldModel
from tests.conftest import build_world

PARTS = {
    "vq_model": lambda world: world.vq_model,
    "transformer": lambda world: world.transformer,
    "processor": lambda world: world.processor,
    "config": lambda world: world.transformer.config,
}


@pytest.fixture(scope="module")
def with_code(tmp_path_factory):
    """A world that was loaded from a folder with code."""
    folder = tmp_path_factory.mktemp("with_code")
    build_world().save_pretrained(folder, remote_code=True)
    return WorldModel.from_pretrained(folder)


def files_that_name_code(folder):
    return [file.name for file in folder.rglob("*.json") if "auto_map" in json.loads(file.read_text())]


@pytest.mark.parametrize("save", [lambda world: world, *PARTS.values()], ids=["world", *PARTS])
def test_code_that_is_not_written_is_not_named(with_code, tmp_path, save):
    save(with_code).save_pretrained(tmp_path)
    assert list(tmp_path.rglob("*.json"))
    assert not files_that_name_code(tmp_path)
    assert not list(tmp_path.rglob("modeling_*.py"))


def test_code_that_is_written_is_named(with_code, tmp_path):
    with_code.save_pretrained(tmp_path, remote_code=True)
    assert len(files_that_name_code(tmp_path)) == 4  # of each part, and the root's
    assert with_code.transformer.config.auto_map["AutoModel"] == "modeling_ivideogpt.IVideoGPTForCausalLM"


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("method", ["save_pretrained", "push_to_hub"])
def test_unknown_arguments_are_named(with_code, tmp_path, part, method):
    with pytest.raises(ValueError, match=r"unknown arguments of .*: organization"):
        getattr(part(with_code), method)(str(tmp_path / "new"), organization="me")
    assert not (tmp_path / "new").exists()


def test_an_upload_does_not_upload_again(with_code):
    with pytest.raises(ValueError, match=r"unknown arguments of .*: push_to_hub"):
        with_code.transformer.push_to_hub("me/mine", push_to_hub=True)


@pytest.mark.parametrize("name", ["vq_model", "transformer"])
def test_weights_are_safetensors(with_code, tmp_path, name):
    PARTS[name](with_code).save_pretrained(tmp_path, safe_serialization=True)
    with pytest.raises(ValueError, match="only saved as safetensors"):
        PARTS[name](with_code).save_pretrained(tmp_path, safe_serialization=False)

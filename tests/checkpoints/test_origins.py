"""What a training began from is noted where the names still mean something."""

import json

from ivideogpt_hf.checkpoints.origins import origins_of


def test_ids_are_kept_and_folders_hand_on_their_own(tmp_path):
    (tmp_path / "vq").mkdir()
    (tmp_path / "vq" / "training.json").write_text(json.dumps({"origins": ["default", "owner/vq"]}))
    (tmp_path / "bare").mkdir()
    names = [str(tmp_path / "vq"), str(tmp_path / "bare"), None, "owner/world", "default", "push2d"]
    assert origins_of(names) == ["default", "owner/vq", "owner/world", "push2d"]


def test_a_folder_that_looks_like_an_id_is_none(tmp_path, monkeypatch):
    (tmp_path / "owner" / "world").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert origins_of(["owner/world"]) == []

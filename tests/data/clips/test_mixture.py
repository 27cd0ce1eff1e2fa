"""Mixtures from yaml."""

import pytest
import yaml

from ivideogpt_hf.data.clips.mixture import Mixture, Source, load_mixture


def write(tmp_path, content):
    file = tmp_path / "mixture.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_papers_mixtures_are_shipped():
    oxe, with_ssv2 = load_mixture("oxe"), load_mixture("oxe_ssv2")
    assert len(oxe.sources) == 38
    assert sum(source.weight for source in oxe.sources) == pytest.approx(1, abs=1e-6)
    assert [source.weight for source in with_ssv2.sources[:-1]] == pytest.approx([0.85 * s.weight for s in oxe.sources])
    assert with_ssv2.sources[-1].weight == 0.15
    strides = {source.name: oxe.stride_of(source) for source in oxe.sources}
    assert (strides["kuka"], strides["toto"], strides["robo_net"]) == (3, 10, 1)
    cameras = {source.name: source.cameras for source in oxe.sources}
    assert cameras["taco_play"] == ["rgb_static"]


def test_the_shipped_mixture_agrees_with_the_specification(shared):
    table = yaml.safe_load(shared("spec/oxe_mixture.yaml").read_text())["oxe_select"]
    mixture = load_mixture("oxe")
    ours = [(source.name, source.weight, mixture.stride_of(source)) for source in mixture.sources]
    assert ours == [(entry["name"], entry["weight"], max(round(entry["stride"] / 3), 1)) for entry in table]
    cameras = [source.cameras for source in mixture.sources]
    assert cameras == [[entry["image_key"]] if "image_key" in entry else None for entry in table]


def test_an_own_stride_counts_from_the_mixtures_base():
    mixture = Mixture([Source("a", stride=4), Source("b"), Source("kuka", stride=1)], video_step=2, base_stride=2)
    assert [mixture.stride_of(source) for source in mixture.sources] == [4, 2, 1]


def test_paths_begin_at_the_yamls_folder(tmp_path):
    (tmp_path / "arm").mkdir()
    mixture = load_mixture(write(tmp_path, {"sources": [{"path": "arm"}, {"path": "somebody/on-the-hub"}]}))
    assert [source.path for source in mixture.sources] == [str(tmp_path / "arm"), "somebody/on-the-hub"]
    assert [source.name for source in mixture.sources] == ["arm", "on-the-hub"]


def test_a_data_set_is_a_mixture_of_one():
    assert load_mixture("user/data").sources == [Source("user/data")]


def test_the_originals_camera_is_the_default():
    assert Source("x/bair_robot_pushing").cameras == ["aux1_image"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"sources": []}, "at least one source"),
        ({"source": []}, "unknown key 'source'; did you mean 'sources'"),
        ({"seed": 1}, "lacks the key 'sources'"),
        ({"sources": "a"}, "sources must be a list of mappings"),
        ({"sources": ["a"]}, "sources, entry 1 must be a mapping"),
        ({"sources": [{"path": 3}]}, "entry 1: path must be text, not 3"),
        ({"sources": [{"path": "a", "weight": "1e-3"}]}, "weight must be a number"),
        ({"sources": [{"path": "a", "wieght": 1}]}, "unknown key 'wieght'; did you mean 'weight'"),
        ({"sources": [{"weight": 1}]}, "lacks the key 'path'"),
        ({"sources": [{"path": "a"}], "speed": 2}, "unknown key 'speed'"),
        ({"sources": [{"path": "a", "weight": 0}]}, "must be positive"),
        ({"sources": [{"path": "a", "weight": float("inf")}]}, "positive and finite, got inf"),
        ({"sources": [{"path": "a", "stride": float("inf")}]}, "positive and finite, got 1.0 and inf"),
        ({"sources": [{"path": "a"}], "video_step": float("inf")}, "positive and finite, got inf"),
        ({"sources": [{"path": "a", "action_aggregation": "mean"}]}, "'sum', 'last', 'concatenate'"),
        ({"sources": [{"path": "a", "action_normalization": "minmax"}]}, "'none', 'standardize'"),
        ({"sources": [{"path": "a"}, {"path": "b/a"}]}, "different names"),
        ({"sources": [{"path": "a", "num_episodes": 0}]}, "at least 1"),
    ],
)
def test_mistakes_are_named(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason):
        load_mixture(write(tmp_path, content))


def test_a_missing_yaml_is_an_error():
    with pytest.raises(FileNotFoundError, match="no yaml file"):
        load_mixture("missing.yaml")


def test_a_mixture_passes_through():
    mixture = Mixture([Source("a")])
    assert load_mixture(mixture) is mixture

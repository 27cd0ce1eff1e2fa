"""Model cards: what they say, and what they refuse."""

import copy
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from ivideogpt_hf.cards.facts import facts_of
from ivideogpt_hf.cards.model_card import CardText, leaderboard_results, render_card
from ivideogpt_hf.cards.text import CARDS
from ivideogpt_hf.checkpoints.family import RELEASED_IDS
from ivideogpt_hf.checkpoints.layout import EMBEDDED
from ivideogpt_hf.extras import how_to_install
from scripts import check_prose
from tests.conftest import build_world

SHIPPED = sorted(CARDS.glob("*.yaml"))
METRICS = {
    "commands": ["make train"],
    "evaluation": {
        "command": "python evaluate.py",
        "num_clips": 7,
        "num_samples": 4,
        "protocol": {"num_context_frames": 2, "num_future_frames": 10},
        "mean": {"model": {"psnr": 28.5, "lpips": 0.0123, "mse": 0.1}, "repeat the last frame": {"psnr": 25.0}},
    },
}
PUBLISHED = {"dataset": {"name": "arm", "id": "u/arm"}, "source": "a paper", "rows": [{"name": "ours", "psnr": 20}]}
TEXT = CardText(title="A model", license="mit", datasets=[{"name": "arm", "id": "u/arm"}])


def card_of(world, text=TEXT, metrics=METRICS, **options):
    facts = facts_of(world.vq_model, world.transformer, world.spec)
    return render_card(facts, "user/model", text, metrics, **options)


def test_results_come_from_the_metrics_file(world):
    card = card_of(world)
    assert "| PSNR (dB) | 28.5 | 25 |" in card.content
    assert "| LPIPS (VGG) | 0.0123 | - |" in card.content
    assert "2 context frames to 10 predicted ones" in card.content
    assert "the mean over 4 samples of 7 clips." in card.content
    (psnr, lpips) = card.data.eval_results
    assert (psnr.metric_type, psnr.metric_value) == ("psnr", 28.5)
    assert lpips.metric_value == 0.0123
    assert "`make train`" in card.content


def test_results_name_the_temperature_of_their_samples(world):
    """Samples at another temperature have other figures."""
    protocol = METRICS["evaluation"]["protocol"] | {"temperature": 0.5}
    card = card_of(world, metrics=METRICS | {"evaluation": METRICS["evaluation"] | {"protocol": protocol}})
    assert "the mean over 4 samples of 7 clips, at temperature 0.5." in card.content


def test_fvd_is_shown_where_it_was_measured(world):
    frechet = {"FVD (I3D)": {"predicted frames only": 61.5, "with reconstructed context frames": 50.0}}
    card = card_of(world, metrics=METRICS | {"evaluation": METRICS["evaluation"] | {"frechet": frechet}})
    assert "| FVD | 61.5 | - |" in card.content


@pytest.mark.parametrize(("path", "there"), [("user/arm", True), ("folder", False), ("../datasets/arm", False)])
def test_results_on_a_data_set_of_the_hub_stand_beside_it(path, there):
    evaluation = METRICS["evaluation"] | {"data": [{"path": path, "name": "arm", "split": "test"}]}
    content = leaderboard_results({"evaluation": evaluation})
    if not there:
        assert content is None
        return
    first = yaml.safe_load(content)[0]
    assert first["dataset"] == {"id": "user/arm", "task_id": "video_prediction_psnr"}
    assert first["value"] == 28.5


def test_results_name_the_split_that_their_clips_are_of(world):
    """Clips that a model was trained on are not called held out."""
    evaluation = METRICS["evaluation"] | {"data": [{"path": "datasets/arm", "name": "arm", "split": "train"}]}
    card = card_of(world, metrics=METRICS | {"evaluation": evaluation})
    assert "the mean over 4 samples of 7 clips of the split train of arm." in card.content
    assert "held" not in card.content
    assert card.data.eval_results[0].dataset_name == "clips of the split train of arm"


def test_facts_come_from_the_checkpoint(world, free_world):
    with_actions, without = card_of(world), card_of(free_world)
    assert "| actions | 3 wide |" in with_actions.content
    assert 'out = pipe("clip.mp4", num_frames=6)' in without.content
    assert (with_actions.data.pipeline_tag, without.data.pipeline_tag) == ("robotics", "image-to-video")
    assert f"{sum(p.numel() for p in world.transformer.parameters()):,}" in with_actions.content


@pytest.mark.parametrize(
    ("abilities", "sentence"),
    [
        ({}, "predicts video from frames."),
        ({"action_dim": 3}, "predicts video from frames and actions."),
        ({"action_dim": 3, "predict_reward": True}, "predicts video and rewards from frames and actions."),
        ({"goal_conditioned": True}, "predicts video from frames and a goal."),
    ],
)
def test_a_summary_that_nobody_wrote_says_what_the_model_takes_and_gives(abilities, sentence):
    assert f"An iVideoGPT world model: {sentence}" in card_of(build_world(**abilities)).content


def test_a_card_says_how_the_package_is_installed_today(world):
    assert how_to_install(quote="`") in card_of(world).content


def test_metadata_is_for_the_hub(world):
    metadata = card_of(world).data.to_dict()
    assert metadata["license"] == "mit"
    assert metadata["library_name"] == "ivideogpt_hf"
    assert metadata["datasets"] == ["u/arm"]
    assert {"world-model", "world-models", "video-prediction", "robotics", "arxiv:2405.15223"} <= set(metadata["tags"])
    assert metadata["model-index"][0]["name"] == "A model"


def test_the_hubs_own_reader_takes_the_card(world, tmp_path):
    card = card_of(world)
    card.save(tmp_path / "README.md")
    read = ModelCard.load(tmp_path / "README.md", ignore_metadata_errors=False)
    assert read.data.to_dict() == card.data.to_dict()
    assert read.data.eval_results == card.data.eval_results


def test_a_licence_that_nobody_stated_is_unknown(world):
    assert card_of(world, None).data.license == "unknown"


def test_a_card_without_results_says_so(world):
    card = card_of(world, metrics={})
    assert "Nothing has been measured." in card.content
    assert card.data.eval_results is None


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_rendering_writes_nothing_into_what_it_is_given(world, file):
    text, metrics = CardText.read(file), copy.deepcopy(METRICS)
    frechet = {"FVD (I3D)": {"predicted frames only": 61.5, "with reconstructed context frames": 50.0}}
    metrics["evaluation"]["frechet"] = frechet
    before = copy.deepcopy((text, metrics))
    contents = {card_of(world, text, metrics).content for _ in range(2)}
    assert (text, metrics) == before
    assert len(contents) == 1


@pytest.mark.parametrize("preview", [None, "preview.gif"])
def test_a_picture_is_shown_where_there_is_one(world, preview):
    assert ("![Left: real" in card_of(world, preview=preview).content) == (preview is not None)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_cards_render(world, file):
    text = CardText.read(file)
    card = card_of(world, text, METRICS if file.stem == "default" else {})
    assert text.summary in card.content
    assert text.license_note in card.content
    assert "{{" not in card.content
    assert "None" not in card.content.replace("Nothing has been measured.", "")
    if text.published:
        assert card.data.eval_results[0].metric_value == text.published["rows"][0]["fvd"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_cards_are_plain_english(world, file):
    metrics = METRICS if file.stem == "default" else {}
    prose = check_prose.prose_of(card_of(world, CardText.read(file), metrics, preview="prediction.gif").text)
    assert not list(check_prose.our_findings(prose))


def test_there_is_a_card_for_every_embedded_and_released_checkpoint():
    own = {name.partition("/")[2] for name in RELEASED_IDS}
    assert {file.stem for file in SHIPPED} == own | EMBEDDED.keys()
    assert all("authors" in CardText.read(file).license_note for file in SHIPPED if file.stem not in EMBEDDED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licens": "mit"}, "unknown key 'licens'; did you mean 'license'"),
        ({"licence_note": "Both."}, "unknown key 'licence_note'; did you mean 'license_note'"),
        ({"datasets": "arm"}, "datasets must be a list, each entry a mapping to text, not the text 'arm'"),
        ({"title": 3}, "title must be text, not 3"),
        ({"datasets": [{"id": "u/arm"}]}, "entry 1 of datasets needs a name, it has id"),
        ({"published": {"source": "paper"}}, "published lacks the key 'dataset'"),
        ({"published": PUBLISHED | {"dataset": {"name": "arm"}}}, "id on the Hub; it lacks 'id'"),
        ({"published": PUBLISHED | {"rows": []}}, "rows are empty"),
        ({"published": PUBLISHED | {"rows": [{"psnr": 20}]}}, "row 1 needs a name"),
        ({"published": PUBLISHED | {"rows": [{"name": "ours", "psnr": "20"}]}}, "psnr must be a number, not the text"),
        ({"published": PUBLISHED | {"rows": [{"name": "ours", "psnrs": 20}]}}, "key 'psnrs'; did you mean 'psnr'"),
    ],
)
def test_a_card_file_that_is_wrong_is_refused(tmp_path, change, message):
    content = yaml.safe_load((CARDS / "default.yaml").read_text()) | change
    file = Path(tmp_path / "card.yaml")
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as error:
        CardText.read(file)
    assert str(file) in str(error.value)


def test_published_results_without_a_protocol_are_shown_alone(world):
    content = card_of(world, CardText("A", published=PUBLISHED)).content
    assert "## Results\n\n| metric | ours | \n" in content
    assert "None" not in content


def test_british_keys_of_older_cards_are_read(tmp_path):
    content = {"title": "A", "licence": "mit", "licence_note": "Mine.", "datasets": [{"name": "x", "licence": "MIT"}]}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    text = CardText.read(tmp_path / "card.yaml")
    assert (text.license, text.license_note, text.datasets[0]["license"]) == ("mit", "Mine.", "MIT")


def test_a_card_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no yaml file"):
        CardText.read(tmp_path / "card.yaml")


TRAINING = {
    "arguments": {"num_updates": 4000, "batch_size": 16},
    "data": [{"name": "arm", "path": "user/arm"}, {"name": "hand", "path": "datasets/hand"}],
    "hub_datasets": ["user/arm"],
    "origins": ["default", "owner/world"],
}


@pytest.mark.parametrize(
    "training", [TRAINING, TRAINING | {"data": {"data": TRAINING["data"]}}], ids=["clips", "tokens"]
)
def test_the_record_of_the_training_fills_in_what_the_text_leaves_open(world, training):
    card = card_of(world, CardText(title="Mine"), {}, training=training)
    assert card.data.base_model == ["owner/world"]
    assert card.data.datasets == ["user/arm"]
    for sentence in (
        "Clips of these data sets:",
        "- arm\n- hand",
        "from [owner/world](https://huggingface.co/owner/world) "
        'and the checkpoint "default" that is embedded in ivideogpt-hf.',
        "4,000 updates of 16 clips",
    ):
        assert sentence in card.content


def test_what_a_person_wrote_counts_more_than_the_record(world):
    text = CardText(title="Mine", base_model="u/mine", training_data="My clips.", datasets=[{"name": "x", "id": "u/x"}])
    card = card_of(world, text, {}, training=TRAINING)
    assert (card.data.base_model, card.data.datasets) == ("u/mine", ["u/x"])
    assert "My clips." in card.content
    assert "- hand" not in card.content


@pytest.mark.parametrize(("psnr", "is_told"), [(25.0, True), (24.9, True), (25.1, False)])
def test_a_model_that_does_not_beat_the_last_frame_says_so(world, psnr, is_told):
    mean = {"model": {"psnr": psnr, "lpips": 0.2}, "repeat the last frame": {"psnr": 25.0, "lpips": 0.3}}
    card = card_of(world, metrics={"evaluation": METRICS["evaluation"] | {"mean": mean}})
    assert ("The model does not beat repeating the last frame by PSNR (dB)." in card.content) == is_told

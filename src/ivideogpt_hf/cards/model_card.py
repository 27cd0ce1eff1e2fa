"""Model cards: facts from the checkpoint, results from its metrics file, and text from a yaml file.

The template is model_cards/template.md. The yaml files beside it hold what no file of a checkpoint says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..extras import how_to_install
from ..hub.upload import add_tags, validate_card
from ..metrics import FVD, REPEAT
from ..settings import as_yaml, check_keys, fill
from ..spec import WorldModelSpec
from .facts import Facts
from .text import CARDS, TAGS, UNKNOWN_LICENSE, counted, read_card_text
from .training import base_models_of, origins_sentence, sources_of, updates_sentence

TEMPLATE = CARDS / "template.md"
NOT_STATED = "Not stated."
PAPER = "arxiv:2405.15223"
# Metrics in a card: their names in the metrics file and on the Hub, and their labels.
METRICS = {"fvd": "FVD", "psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS (VGG)"}
HIGHER_IS_BETTER = ("psnr", "ssim")
NAMES_SHOWN = 3  # names of data sets that results are of; of more, the number


@dataclass(frozen=True)
class Published:
    """Results from elsewhere, as a card's yaml file has them.

    Attributes:
        dataset: data set of the measurement, with "name" and "id" on the Hub.
        source: publication.
        rows: name and metrics of each row; the first row is the model's.

    Raises:
        ValueError: if a name is missing, or a metric is unknown or no number.
    """

    dataset: dict[str, str]
    source: str
    rows: list[dict[str, str | float]]

    def __post_init__(self) -> None:
        lacking = [key for key in ("name", "id") if key not in self.dataset]
        if lacking:
            raise ValueError(f"published: dataset needs a name, and the id on the Hub; it lacks {lacking[0]!r}")
        if not self.rows:
            raise ValueError("published: rows are empty; give a row with the model's results, or leave published out")
        for number, row in enumerate(self.rows, start=1):
            place = f"published: row {number}"
            check_keys(row, ["name", *METRICS], place)
            if not isinstance(row.get("name"), str):
                raise ValueError(f"{place} needs a name, which stands above its results")
            texts = [key for key in METRICS if isinstance(row.get(key), str)]
            if texts:
                raise ValueError(f"{place}: {texts[0]} must be a number, not the text {row[texts[0]]!r}")


@dataclass(frozen=True)
class CardText:
    """Text that a person writes about a checkpoint.

    Attributes:
        title: heading of the card.
        summary: one or two sentences on what the model does; None: a sentence of what it takes and gives.
        license: identifier of the licence, as on the Hub.
        license_note: owner of the weights, and what the licence covers.
        training_data: one sentence on the training data.
        datasets: data sets of the training; each has a "name", and may have an "id" on the Hub, "license" and "note".
        limits: limits of this model, besides those of all such models.
        base_model: Hub id of the checkpoint that it was fine-tuned from.
        protocol: protocol by which the published results were measured.
        published: results from elsewhere, with the keys of `Published`; empty: none.

    Raises:
        ValueError: if a data set has no name, or `Published` refuses the results.
    """

    title: str
    summary: str | None = None
    license: str | None = None
    license_note: str = "No licence was stated."
    training_data: str = NOT_STATED
    datasets: list[dict[str, str]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    base_model: str | None = None
    protocol: str | None = None
    published: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, source in enumerate(self.datasets, start=1):
            if "name" not in source:
                raise ValueError(f"entry {number} of datasets needs a name, it has {', '.join(source) or 'no keys'}")
        if self.published:
            fill(Published, self.published, "published")

    @classmethod
    def read(cls, file: Path) -> CardText:
        """Read a yaml file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a key is missing, unknown or of the wrong kind.
        """
        return read_card_text(cls, file)


@dataclass(frozen=True)
class Results:
    """Results that a card shows.

    Attributes:
        rows: name and metrics of each row; the first row is the model's.
        source: origin of the results: a publication or a command.
        dataset: data set of the measurement, with "name" and "id" on the Hub.
        protocol: protocol of the measurement.
    """

    rows: list[dict[str, Any]]
    source: str
    dataset: dict[str, str]
    protocol: str | None

    def lines(self) -> list[tuple[str, list[str]]]:
        """The lines of a table: the label of each metric that was measured, and its value in every row."""
        return [
            (label, [f"{row[key]:.4g}" if key in row else "-" for row in self.rows])
            for key, label in METRICS.items()
            if any(key in row for row in self.rows)
        ]

    def shortfall(self) -> str | None:
        """A sentence that names the metrics in which repeating the last frame is as good as the model; None if the
        model is better in all."""
        baseline = next((row for row in self.rows if row["name"] == REPEAT), {})
        model = self.of_the_model()
        worse = [
            METRICS[key]
            for key, value in model.items()
            if key in baseline and (value <= baseline[key] if key in HIGHER_IS_BETTER else value >= baseline[key])
        ]
        return f"The model does not beat repeating the last frame by {', '.join(worse)}." if worse else None

    def of_the_model(self) -> dict[str, float]:
        """The metrics of the first row."""
        return {key: self.rows[0][key] for key in METRICS if key in self.rows[0]}


def render_card(
    facts: Facts,
    repo_id: str,
    text: CardText | None,
    metrics: dict[str, Any],
    preview: str | None = None,
    *,
    training: dict[str, Any] | None = None,
) -> ModelCard:
    """Render a model card. The arguments are not changed.

    Args:
        facts: facts about the checkpoint.
        repo_id: Hub id of the repository for the card.
        text: text that a person wrote; None: the card does not state training data and licence.
        metrics: content of the checkpoint's metrics.json; may be empty.
        preview: file name of a picture in the repository.
        training: content of the checkpoint's training.json, which fills in what the text leaves open; None: there is
            none.
    """
    training = training or {}
    text = _filled(text or CardText(title=repo_id.rsplit("/", 1)[-1]), facts, training)
    results = _results(text, metrics)
    data = ModelCardData(
        license=text.license or UNKNOWN_LICENSE,
        library_name="ivideogpt_hf",
        pipeline_tag=_task(facts),
        tags=[*TAGS, PAPER],
        datasets=[source["id"] for source in text.datasets if "id" in source] or training.get("hub_datasets") or None,
        base_model=text.base_model or base_models_of(training) or None,
        model_name=text.title,
        eval_results=_eval_results(results, facts) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        facts=facts,
        preview=preview,
        install=how_to_install(quote="`"),
        results=results,
        training=_training(metrics, training),
        architecture="A compressive VQ model codes context frames in full and future frames by what changed. A LLaMA "
        "transformer predicts the following tokens, conditioned on actions if the model has them (Wu et al., 2024).",
        **{item.name: getattr(text, item.name) for item in fields(text)},
    )


def valid_card(facts: Facts, repo_id: str, text: CardText | None, tags: Sequence[str] = ()) -> ModelCard:
    """Render a model card without results, and have the Hub check its metadata; see `render_card`.

    Args:
        facts, repo_id, text: see `render_card`.
        tags: tags to add to those that every card has.

    Raises:
        ValueError: if the Hub would refuse the card; says why.
        OSError: if the Hub cannot be reached.
    """
    card = render_card(facts, repo_id, text, {})
    add_tags(card, tags)
    validate_card(card, repo_id)
    return card


def _task(facts: Facts) -> str:
    """The Hub's name for the task of the model."""
    return "robotics" if facts.spec.action_dim else "image-to-video"


def _results(text: CardText, metrics: dict[str, Any]) -> Results | None:
    """Results from elsewhere, or else those in the metrics file; None if there are none."""
    if text.published:
        published = text.published
        return Results(published["rows"], published["source"], published["dataset"], text.protocol)
    evaluation = metrics.get("evaluation", {})
    if "mean" not in evaluation:
        return None
    rows = [{"name": name} | values for name, values in evaluation["mean"].items()]
    if FVD in evaluation.get("frechet", {}):
        rows[0]["fvd"] = evaluation["frechet"][FVD]["predicted frames only"]
    counts, origin = evaluation["protocol"], _origin_of_clips(evaluation)
    temperature = f", at temperature {counts['temperature']:g}" if "temperature" in counts else ""
    return Results(
        rows,
        source=f"`{evaluation['command']}`",
        dataset={"name": f"clips{origin}", "id": _hub_dataset(evaluation) or "clips"},
        protocol=f"{counts['num_context_frames']} context frames to {counts['num_future_frames']} predicted ones, "
        f"predicted frames only, the mean over {counted(evaluation['num_samples'], 'sample')} of "
        f"{counted(evaluation['num_clips'], 'clip')}{origin}{temperature}.",
    )


def _origin_of_clips(evaluation: dict[str, Any]) -> str:
    """Which split of which data the clips of an evaluation are from, as the end of a sentence; "" where it does not
    say."""
    data = evaluation.get("data", ())
    splits, names = (list(dict.fromkeys(source[key] for source in data)) for key in ("split", "name"))
    if not data:
        return ""
    shown = ", ".join(names) if len(names) <= NAMES_SHOWN else counted(len(names), "data set")
    return f" of the {'split' if len(splits) == 1 else 'splits'} {', '.join(splits)} of {shown}"


def _eval_results(results: Results | None, facts: Facts) -> list[EvalResult]:
    """The model's results, for the Hub."""
    if results is None:
        return []
    return [
        EvalResult(
            task_type=_task(facts),
            task_name="action-conditioned video prediction" if facts.spec.action_dim else "video prediction",
            dataset_type=results.dataset["id"],
            dataset_name=results.dataset["name"],
            metric_type=key,
            metric_name=METRICS[key],
            metric_value=value,
        )
        for key, value in results.of_the_model().items()
    ]


def leaderboard_results(metrics: dict[str, Any]) -> str | None:
    """The content of a file in ``.eval_results/``, which the Hub shows at the page of a data set.

    It is None unless the checkpoint was measured on exactly one data set, and that is on the Hub.
    """
    evaluation = metrics.get("evaluation", {})
    dataset = _hub_dataset(evaluation)
    results = None if dataset is None else _results(CardText(""), metrics)
    if results is None:
        return None
    entries = [
        EvalResultEntry(dataset, f"video_prediction_{key}", value, notes=results.protocol)
        for key, value in results.of_the_model().items()
    ]
    return as_yaml(eval_result_entries_to_yaml(entries))


def _hub_dataset(evaluation: dict[str, Any]) -> str | None:
    """The Hub id of the data set of an evaluation; None if it is not exactly one, on the Hub."""
    paths = {source["path"] for source in evaluation.get("data", ())}
    path = next(iter(paths), "")
    return path if len(paths) == 1 and path.count("/") == 1 and not Path(path).exists() else None


def _summary(spec: WorldModelSpec) -> str:
    """What a model takes and gives, as a sentence."""
    inputs = ["frames", *["a goal"] * spec.goal_conditioned, *["actions"] * bool(spec.action_dim)]
    rewards = " and rewards" * spec.has_reward
    return f"An iVideoGPT world model: predicts video{rewards} from {' and '.join(inputs)}."


def _filled(text: CardText, facts: Facts, training: dict[str, Any]) -> CardText:
    """The text, with what the model does and the names of the training's data sets where it states none."""
    text = replace(text, summary=text.summary or _summary(facts.spec))
    sources = sources_of(training)
    if text.datasets or text.training_data != NOT_STATED or not sources:
        return text
    return replace(text, training_data="Clips of these data sets:", datasets=sources)


def _training(metrics: dict[str, Any], training: dict[str, Any]) -> str | None:
    """Sentences on how the checkpoint was made: commands in its metrics file, or else the record of the training; None
    if neither is there."""
    sentences = [origins_sentence(training)]
    if "commands" in metrics:
        sentences.append("Made by " + ", then ".join(f"`{command}`" for command in metrics["commands"]) + ".")
    else:
        sentences.append(updates_sentence(training))
    return " ".join(filter(None, sentences)) or None

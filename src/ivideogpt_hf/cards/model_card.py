"""Model cards: facts from the checkpoint, results from its metrics file, words from a yaml file; none typed twice.

The template is model_cards/template.md, and a yaml file there tells what no file of the checkpoint can.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from .facts import Facts
from .text import CARDS, read_card_text

TEMPLATE = CARDS / "template.md"
PAPER = "arxiv:2405.15223"
FVD = "FVD (I3D)"  # as evaluations call it
# Metrics in a card: key in the metrics file, what the Hub calls it, label, factor.
METRICS = (
    ("fvd", "fvd", "FVD", 1.0),
    ("psnr", "psnr", "PSNR (dB)", 1.0),
    ("ssim", "ssim", "SSIM", 1.0),
    ("lpips", "lpips", "LPIPS (VGG)", 1.0),
)


@dataclass(frozen=True)
class CardText:
    """What a person has to say about a checkpoint.

    Attributes:
        title: heading.
        summary: what the model does, in a sentence or two.
        license: identifier as the Hub knows it.
        licence_note: whose the weights are, and what that licence covers.
        training_data: what it was trained on, in a sentence.
        datasets: of the training; each with "name", and optionally "id" on the Hub, "licence" and "note".
        limits: what it cannot do, beside what no such model can.
        base_model: Hub id of the checkpoint that it was fine-tuned from.
        protocol: how the published results were measured.
        published: results from elsewhere: "dataset" with "name" and "id", "source", and "rows" of a name and metrics.
    """

    title: str
    summary: str = "An iVideoGPT world model: predicts video from frames."
    license: str | None = None
    licence_note: str = "No licence was stated."
    training_data: str = "Not stated."
    datasets: list[dict[str, str]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    base_model: str | None = None
    protocol: str | None = None
    published: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> CardText:
        """Read a yaml file.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if a key is missing, unknown or of the wrong kind.
        """
        return read_card_text(cls, file)


def render_card(
    facts: Facts, repo_id: str, text: CardText | None, metrics: dict[str, Any], preview: str | None = None
) -> ModelCard:
    """A model card.

    Args:
        facts: of the checkpoint.
        repo_id: where it will be.
        text: what a person says; None: nothing, which leaves open what it was trained on and under which licence.
        metrics: content of the checkpoint's metrics.json; may be empty.
        preview: file name of a picture in the repository.
    """
    text = text or CardText(title=repo_id.rsplit("/", 1)[-1])
    results = _results(text, metrics)
    data = ModelCardData(
        license=text.license,
        library_name="ivideogpt_hf",
        pipeline_tag="robotics" if facts.action_dim else "image-to-video",
        tags=["ivideogpt", "world-model", "video-prediction", "robotics", PAPER],
        datasets=[source["id"] for source in text.datasets if "id" in source] or None,
        base_model=text.base_model,
        model_name=repo_id.rsplit("/", 1)[-1],
        eval_results=_eval_results(results, facts.action_dim) or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        repo_id=repo_id,
        facts=facts,
        preview=preview,
        results=results,
        training=_training(metrics),
        architecture="A compressive VQ model codes context frames in full and future frames by what changed; a LLaMA "
        "continues the tokens, given actions where it has them (Wu et al., 2024).",
        **{item.name: getattr(text, item.name) for item in fields(text)},
    )


def check_card(card: ModelCard) -> None:
    """Ask the Hub whether it takes a card's metadata.

    Raises:
        ValueError: if it does not; says why.
        OSError: if it cannot be reached.
    """
    try:
        card.validate()
    except ValueError as error:
        raise ValueError(f"the Hub would refuse the card: {error}") from error


def _results(text: CardText, metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of results, measured by this project or published: names, and values by metric."""
    if text.published:
        rows, source, dataset = text.published["rows"], text.published["source"], text.published["dataset"]
        protocol = text.protocol
    elif "mean" in metrics.get("evaluation", {}):
        evaluation = metrics["evaluation"]
        rows = [{"name": name} | values for name, values in evaluation["mean"].items()]
        source = f"`{evaluation['command']}`"
        if FVD in evaluation.get("frechet", {}):
            rows[0]["fvd"] = evaluation["frechet"][FVD]["predicted frames only"]
        dataset = {"name": "held-out clips", "id": _hub_dataset(evaluation) or "held-out"}
        counts = evaluation["protocol"]
        protocol = (
            f"{counts['num_context_frames']} context frames to {counts['num_future_frames']} predicted ones, predicted "
            f"frames only, the mean over {evaluation['num_samples']} samples of {evaluation['num_clips']} clips."
        )
    else:
        return None
    shown = [metric for metric in METRICS if any(metric[0] in row for row in rows)]
    for row in rows:
        row["text"] = {key: f"{row[key] * scale:.4g}" if key in row else "-" for key, _, _, scale in shown}
    labels = [{"key": key, "label": label} for key, _, label, _ in shown]
    return {"rows": rows, "metrics": labels, "source": source, "dataset": dataset, "protocol": protocol}


def _eval_results(results: dict[str, Any] | None, action_dim: int) -> list[EvalResult]:
    """The first row, which is the model's, for the Hub."""
    if results is None:
        return []
    return [
        EvalResult(
            task_type="robotics" if action_dim else "image-to-video",
            task_name="action-conditioned video prediction" if action_dim else "video prediction",
            dataset_type=results["dataset"]["id"],
            dataset_name=results["dataset"]["name"],
            metric_type=kind,
            metric_name=label,
            metric_value=results["rows"][0][key],
        )
        for key, kind, label, _ in METRICS
        if key in results["rows"][0]
    ]


def leaderboard_results(metrics: dict[str, Any]) -> str | None:
    """Content of a file in ``.eval_results/``, which the Hub shows beside the data set that a checkpoint was measured
    on; None where that is not one data set on the Hub."""
    import yaml

    evaluation = metrics.get("evaluation", {})
    dataset = _hub_dataset(evaluation)
    results = None if dataset is None else _results(CardText(""), metrics)
    if results is None:
        return None
    entries = [
        EvalResultEntry(dataset, f"video_prediction_{key}", results["rows"][0][key], notes=results["protocol"])
        for key, *_ in METRICS
        if key in results["rows"][0]
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _hub_dataset(evaluation: dict[str, Any]) -> str | None:
    """The one data set that an evaluation was made on, if it is on the Hub."""
    paths = {source["path"] for source in evaluation.get("data", ())}
    path = next(iter(paths), "")
    return path if len(paths) == 1 and path.count("/") == 1 and not Path(path).exists() else None


def _training(metrics: dict[str, Any]) -> str | None:
    """The commands and configurations that made the checkpoint, where its metrics file tells."""
    if "commands" not in metrics:
        return None
    return "Made by " + ", then ".join(f"`{command}`" for command in metrics["commands"]) + "."

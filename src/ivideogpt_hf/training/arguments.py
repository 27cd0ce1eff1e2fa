"""What can be set in a training, with the only defaults: dataclasses, filled from a yaml file and the command line.

Every field of the dataclasses below is a key of the yaml file and an option of the command, which wins. The option of
``num_frames`` is ``--num-frames``; dashes and underscores may stand for one another in keys and options.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

from ..settings import check_keys, read_options
from ..spec import check_clip
from .command_line import register_types, unknown_option

T = TypeVar("T")

USUAL_SAVE_EVERY = 500
REQUIRED = "; required"


class Settings(dict):
    """A mapping in the yaml file; on the command line it is written as JSON."""

    def __init__(self, content: str | Iterable[tuple[str, Any]]) -> None:
        if isinstance(content, str):
            try:
                content = json.loads(content)
                require(isinstance(content, dict), "it is none")
            except ValueError as error:
                example = '{"hidden_size": 256}'
                raise argparse.ArgumentTypeError(f"must be a mapping in JSON, such as '{example}': {error}") from error
        super().__init__(content)


def described(text: str, *, default: Any) -> Any:
    """A field with its help text."""
    return field(default=default, metadata={"help": text})


def required(text: str) -> Any:
    """A field that must be set, with its help text. Its default, None, stands for a value that is missing."""
    return field(default=None, metadata={"help": f"{text}{REQUIRED}", "required": True})


def same_as(kind: type, name: str) -> Any:
    """A field with the help text and the default of another dataclass's field.

    A base class would put the fields of both classes into another order, in which their options are listed.
    """
    (other,) = [item for item in fields(kind) if item.name == name]
    return field(default=other.default, metadata=other.metadata)


@dataclass
class RunArguments:
    """Where a training runs, what it writes, and when."""

    _argument_group_name: ClassVar[str] = "the run"

    output_dir: str = required("folder for checkpoints, metrics and the finished model")
    num_updates: int = required("number of optimiser updates")
    resume: str | None = described(
        "checkpoint to go on from: 'latest', or a folder of the output's checkpoints/", default=None
    )
    seed: int = described("seed of weights, data order and dropout", default=0)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = described(
        "precision of the arithmetic; null: what the Accelerate config says", default=None
    )
    compile: bool = described("torch.compile the model", default=False)
    gradient_checkpointing: bool = described(
        "compute activations again in the backward pass to save memory", default=False
    )
    num_processes: int | None = described(
        "number of processes that must run; the command refuses to start with any other number", default=None
    )
    log_every: int = described("updates between two entries of the metrics", default=50)
    validate_every: int = described("updates between two validations; 0: never", default=500)
    num_validation_batches: int = described("number of batches in a validation", default=8)
    sample_every: int = described("updates between two sample videos; 0: never", default=0)
    save_every: int | None = described(
        "updates between two checkpoints, a multiple of validate_every; the last one is always written; null: the "
        "first multiple that is not below 500",
        default=None,
    )
    keep_checkpoints: int = described("number of the last checkpoints to keep; the best one is kept as well", default=2)
    tracker: Literal["none", "trackio", "tensorboard", "wandb"] = described(
        "tracker that gets the metrics too; none: they are in metrics.jsonl alone", default="none"
    )
    run_name: str | None = described(
        "name of the run in the tracker; null: the name of the output folder", default=None
    )
    push_to_hub: str | None = described(
        "repository on the Hub that gets every checkpoint, during the training", default=None
    )
    hub_private: bool = described("make that repository private", default=False)

    def __post_init__(self) -> None:
        _check_required(self)
        _check_least(self, 1, "num_updates", "num_processes")
        require(0 <= self.seed < 2**31, f"seed must be from 0 to 2147483647, got {self.seed}")
        for name in ("validate_every", "sample_every"):
            require(getattr(self, name) >= 0, f"{name} must be 0 (never) or more, got {getattr(self, name)}")
        if self.save_every is None:
            step = self.validate_every or USUAL_SAVE_EVERY
            self.save_every = step * -(-USUAL_SAVE_EVERY // step)
        _check_least(self, 1, "log_every", "save_every", "num_validation_batches", "keep_checkpoints")
        require(not self.hub_private or self.push_to_hub is not None, "hub_private needs push_to_hub")


@dataclass
class DataArguments:
    """Clips, as `ivideogpt_hf.data.clips.loader.load_clips` takes them."""

    _argument_group_name: ClassVar[str] = "the clips"

    data: str | None = described("data set or mixture: folder, Hub id, yaml file or shipped name", default=None)
    data_root: str | None = described("folder in which the paths of a mixture's yaml begin", default=None)
    validation_split: str | None = described(
        "split of every source that is validated on; null: no validation", default="test"
    )
    num_frames: int = described("frames of a clip", default=16)
    num_context_frames: int = described("context frames of a clip, which are its first ones", default=2)
    augmentation: Literal["none", "weak", "strong"] = described(
        "strength of the change of crop and colour, which is drawn once per clip", default="weak"
    )
    crop_to_aspect: bool = described(
        "crop frames to the aspect of the frame size before they are resized, where there is no augmentation",
        default=False,
    )
    short_episodes: Literal["shrink", "drop"] = described(
        "what happens to episodes shorter than a clip", default="shrink"
    )
    streaming: bool = described("read Parquet as needed instead of memory-mapping all of it", default=False)
    num_workers: int = described("number of processes that prepare clips", default=0)

    def __post_init__(self) -> None:
        check_clip(self.num_frames, self.num_context_frames)
        _check_least(self, 0, "num_workers")


@dataclass
class OptimizationArguments:
    """How weights change. `batch_size` and the rate mean the same on any number of processes."""

    _argument_group_name: ClassVar[str] = "the optimiser"

    batch_size: int = described("clips of one update, over all processes", default=16)
    micro_batch_size: int | None = described(
        "clips that one process takes at a time; null: all of its share", default=None
    )
    learning_rate: float = described("learning rate after warm-up", default=1e-4)
    schedule: Literal["constant", "cosine"] = described("course of the learning rate after warm-up", default="constant")
    warmup_updates: int = described("number of updates over which the learning rate rises linearly", default=500)
    weight_decay: float = described("weight decay of AdamW; not on biases, norms and embeddings", default=0.0)
    max_grad_norm: float = described("norm to which the gradient is clipped", default=1.0)
    average_decay: float | None = described(
        "decay of a moving average of the weights, which is then what is validated and saved; null: the last weights",
        default=None,
    )

    def __post_init__(self) -> None:
        _check_least(self, 1, "batch_size", "micro_batch_size")
        _check_least(self, 0, "warmup_updates", "weight_decay")
        _check_positive(self, "learning_rate", "max_grad_norm")
        require(
            self.average_decay is None or 0 <= self.average_decay < 1,
            f"average_decay must be in [0, 1), got {self.average_decay}",
        )


@dataclass
class VQArguments:
    """The VQ model and its losses (Wu et al., 2024, section 3.1 and appendix A)."""

    _argument_group_name: ClassVar[str] = "the VQ model and its losses"

    vq_model: str | None = described("folder or Hub id of a checkpoint to fine-tune", default=None)
    vq_config: Settings | None = described(  # noqa: RUF009
        "fields of IVideoGPTVQConfig, for a new model", default=None
    )
    horizon: int | None = described(
        "strides within which future frames are chosen at random; null: consecutive frames", default=None
    )
    commitment_weight: float = described("weight of both commitment losses", default=1.0)
    perceptual_weight: float = described("weight of LPIPS; 0: without it", default=1.0)
    perceptual_frames: int | None = described(
        "number of frames of a clip that LPIPS looks at, chosen at random; null: all", default=None
    )
    lpips_weights: str | None = described(
        "weights of LPIPS: a file, or owner/name/file.safetensors on the Hub", default=None
    )
    motion_weight: float = described("extra weight of pixels that change within the clip", default=0.0)
    squared_weight: float = described(
        "weight of the squared error, which is added to the absolute one; with it, small objects are learnt sooner",
        default=0.0,
    )
    adversarial_weight: float = described("weight of the adversarial loss, times the adaptive weight", default=0.8)
    adversarial_start: int | None = described("update from which there is a discriminator; null: never", default=None)
    discriminator_learning_rate: float = described("learning rate of the discriminator", default=1e-4)
    freeze_codebooks: bool = described("train everything but the codes", default=False)
    restart_dead_codes: int = described("updates between restarts of codes that were not used; 0: never", default=0)
    restart_until: float = described(
        "share of the updates after which codes no longer restart, so that all of them settle", default=0.7
    )

    def __post_init__(self) -> None:
        require(
            (self.vq_model is None) != (self.vq_config is None),
            "give either vq_model (a checkpoint to fine-tune) or vq_config (a new model)",
        )
        require(
            not (self.freeze_codebooks and self.restart_dead_codes),
            "freeze_codebooks and restart_dead_codes contradict each other",
        )
        require(
            self.perceptual_weight > 0 or self.adversarial_start is None,
            "the adversarial loss is weighted by the perceptual one's gradient: it needs perceptual_weight above 0",
        )
        _check_least(self, 0, "commitment_weight", "perceptual_weight", "motion_weight", "squared_weight")
        _check_least(self, 0, "adversarial_weight", "adversarial_start", "restart_dead_codes")
        _check_least(self, 1, "horizon", "perceptual_frames")
        _check_positive(self, "discriminator_learning_rate")
        require(0 <= self.restart_until <= 1, f"restart_until must be in [0, 1], got {self.restart_until}")


@dataclass
class WorldModelArguments:
    """The transformer, what it is conditioned on, and what it predicts (Wu et al., 2024, section 3.2)."""

    _argument_group_name: ClassVar[str] = "the transformer"

    vq_model: str = required("folder or Hub id of the checkpoint whose VQ model makes the tokens")
    repeat_last_context: bool | None = described(
        "code the last context frame twice, the second time as a future frame; null: as the checkpoint says",
        default=None,
    )
    transformer: str | None = described("folder or Hub id of a checkpoint to start from", default=None)
    transformer_config: Settings | None = described(  # noqa: RUF009
        "fields of IVideoGPTConfig, for a new model", default=None
    )
    tokens: str | None = described("folder that `ivideogpt tokenize` wrote, in place of data", default=None)
    actions: bool = described("condition on actions", default=False)
    new_action_head: bool = described(
        "replace the checkpoint's action input by a new one, as wide as the data's actions", default=False
    )
    action_conditioning: Literal["add", "scale_shift"] | None = described(
        "way in which actions enter the transformer; null: as in the checkpoint to start from, else 'add'", default=None
    )
    rewards: bool = described("predict rewards", default=False)
    drop_reward_head: bool = described(
        "begin without the checkpoint's reward head, as for data without rewards", default=False
    )
    reward_transform: Literal["symlog", "identity"] = described(
        "transform of the reward head's target", default="symlog"
    )
    num_reward_bins: int | None = described(
        "number of bins over which the reward head gives a distribution, 1: one number; null: as in the checkpoint to "
        "start from, else 1",
        default=None,
    )
    reward_weight: float = described(
        "weight of the reward head's mean squared error, or of its cross-entropy over bins", default=1.0
    )
    reconstruct_actions: bool = described("predict the actions too", default=False)
    action_reconstruction_weight: float = described("weight of the predicted actions' mean squared error", default=1.0)
    goal_conditioned: bool = described("put the last frame of a clip first, as the goal", default=False)
    draft_head: bool = described(
        "add a head that guesses tokens ahead, so that rollouts with num_guesses take fewer passes, and train it "
        "alone; false: a checkpoint's own is left out, since it guesses what the old weights draw",
        default=False,
    )
    attention_dropout: float | None = described(
        "dropout of attention in training; null: as the config says", default=None
    )
    token_noise: float = described(
        "share of input tokens that are replaced by random ones, which prepares the model for its own errors",
        default=0.0,
    )
    lora_rank: int = described("rank of LoRA adapters on all linear layers; 0: train all weights", default=0)
    lora_alpha: float | None = described("scale of the LoRA adapters; null: twice the rank", default=None)
    sample_frames: int | None = described(
        "future frames of the sample videos; null: as many as in a clip", default=None
    )

    def __post_init__(self) -> None:
        _check_required(self)
        require(
            (self.transformer is None) != (self.transformer_config is None),
            "give either transformer (a checkpoint to start from) or transformer_config (a new model)",
        )
        require(not self.reconstruct_actions or self.actions, "reconstruct_actions needs actions")
        require(self.num_reward_bins is None or self.rewards, "num_reward_bins needs rewards")
        require(self.action_conditioning is None or self.actions, "action_conditioning needs actions")
        require(
            not self.new_action_head or (self.actions and self.transformer is not None),
            "new_action_head needs actions, and a checkpoint to start from: name it as transformer",
        )
        require(
            not self.drop_reward_head or (not self.rewards and self.transformer is not None),
            "drop_reward_head needs a checkpoint to start from, and excludes rewards",
        )
        require(
            not self.lora_rank or self.transformer is not None,
            "lora_rank needs a checkpoint to start from: name it as transformer",
        )
        require(
            not self.draft_head or (self.transformer is not None and not self.lora_rank),
            "draft_head needs a checkpoint, whose other weights it leaves as they are: name it as transformer, and "
            "leave lora_rank out",
        )
        require(self.lora_alpha is None or self.lora_rank > 0, "lora_alpha needs lora_rank")
        _check_positive(self, "lora_alpha")
        _check_least(self, 0, "reward_weight", "action_reconstruction_weight", "lora_rank")
        _check_least(self, 1, "num_reward_bins", "sample_frames")
        for name in ("token_noise", "attention_dropout"):
            share = getattr(self, name)
            require(share is None or 0 <= share < 1, f"{name} must be in [0, 1), got {share}")


@dataclass
class TokenizeArguments:
    """What `ivideogpt tokenize` writes. Options that a training has too are described there."""

    _argument_group_name: ClassVar[str] = "the tokens"

    output_dir: str = required("folder for the tokens")
    vq_model: str = same_as(WorldModelArguments, "vq_model")
    repeat_last_context: bool | None = same_as(WorldModelArguments, "repeat_last_context")
    num_passes: int = described(
        "number of passes over the data; with augmentation each sees other crops and colours", default=1
    )
    clips_per_pass: int | None = described("clips of a pass, drawn without replacement; null: every clip", default=None)
    validation_clips: int | None = described(
        "clips of the validation split, drawn without replacement; null: every clip", default=None
    )
    batch_size: int = described("clips coded at a time by one process", default=16)
    actions: bool = described("keep actions", default=False)
    rewards: bool = described("keep rewards", default=False)
    goal_conditioned: bool = same_as(WorldModelArguments, "goal_conditioned")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = same_as(RunArguments, "mixed_precision")
    num_processes: int | None = same_as(RunArguments, "num_processes")
    seed: int = described("seed of the order of clips and of the augmentation", default=0)
    ray: str | None = described(
        "address of a Ray cluster to run on ('local' starts one here); null: this process",
        default=None,
    )

    def __post_init__(self) -> None:
        _check_required(self)
        _check_least(self, 1, "num_passes", "batch_size", "clips_per_pass", "validation_clips", "num_processes")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with a message unless a condition holds."""
    if not condition:
        raise ValueError(message)


def _check_least(arguments: Any, minimum: int, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        allowed = f"at least {minimum}" if minimum else "0 or more"
        require(value is None or value >= minimum, f"{name} must be {allowed}, got {value}")


def _check_positive(arguments: Any, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        require(value is None or value > 0, f"{name} must be positive, got {value}")


def _check_required(arguments: Any) -> None:
    for item in fields(arguments):
        text = item.metadata["help"].removesuffix(REQUIRED)
        is_given = getattr(arguments, item.name) not in (None, "") or not item.metadata.get("required")
        require(is_given, f"--{item.name.replace('_', '-')} is missing: the {text}")


def parse(
    kinds: Sequence[type[T]], config: str | None, overrides: Sequence[str], command: str, *, about: str = ""
) -> tuple[T, ...]:
    """Fill dataclasses from a yaml file and from what the command line says, which wins.

    Args:
        kinds: dataclasses to fill, whose fields have different names.
        config: path of the yaml file; None: no file.
        overrides: options of the command line, such as ``["--learning-rate", "1e-4", "--compile", "false"]``; the value
            ``"null"`` stands for None.
        command: name of the command, for its help.
        about: what the command does, for its help.

    Returns:
        The filled dataclasses, in the order of ``kinds``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: on an unknown key, a value of the wrong kind, or values that contradict each other.
    """
    from transformers import HfArgumentParser

    types = {item.name: get_type_hints(kind)[item.name] for kind in kinds for item in fields(kind)}
    settings: dict[str, Any] = {}
    if config is not None:
        runs = read_options(Path(config))
        require(len(runs) == 1, f"{config} must hold one mapping of options, it holds a list of {len(runs)}")
        settings = next(iter(runs.values()))
        check_keys(settings, list(types), config)
    options: list[str] = []
    for option in _with_null_apart(overrides):
        if option == "null" and options:
            settings[options.pop().removeprefix("--").replace("-", "_")] = None
        else:
            options.append(option)
    parser = HfArgumentParser(
        kinds,
        prog=command,
        usage=f"{command} [--config FILE] [--NAME VALUE ...]",
        description=f"{about} The file of --config can set every option as well. The command line wins.".strip(),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    register_types(parser)
    for action in parser._actions:  # the help shows one of the spellings that are read
        action.option_strings = [option for option in action.option_strings if "_" not in option]
        action.required = False  # the dataclasses say what is missing, after what is unknown was told
    file_options: list[str] = []
    for key, value in settings.items():
        if value is not None:
            file_options.append(f"--{key}={_as_text(value, types[key])}")
            continue
        require(key in types and type(None) in get_args(types[key]), f"{key} cannot be null")
        parser.set_defaults(**{key: None})
    words = [*file_options, *options]
    try:
        _, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:  # which is told before what the dataclasses miss
        known = (option for action in parser._actions for option in action.option_strings)
        require(unknown[0].startswith("-"), f"{command} takes options only, got {unknown[0]!r}")
        raise ValueError(unknown_option(command, unknown[0], known))
    return tuple(parser.parse_args_into_dataclasses(words, look_for_args_file=False))


def _with_null_apart(words: Iterable[str]) -> Iterator[str]:
    """The words of a command line, where ``--name=null`` is two of them."""
    for word in words:
        yield from word.rsplit("=", 1) if word.startswith("--") and word.endswith("=null") else [word]


class _HelpFormatter(argparse.HelpFormatter):
    """Adds the default of each option to its help, where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        has_default = action.default not in (None, "", argparse.SUPPRESS) and not text.endswith(REQUIRED)
        return f"{text} (default: %(default)s)" if has_default else text


def _as_text(value: Any, hint: Any) -> str:
    """A value of the yaml file as it would be written on the command line."""
    if isinstance(value, dict):
        return json.dumps(value)
    if value is False and "no" in {choice for kind in get_args(hint) for choice in get_args(kind)}:
        return "no"  # which yaml takes for false
    return str(value)

"""The command line, one entry point: ``ivideogpt predict | convert-data | ...``; imports nothing heavy at its start."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_data import add_data_commands
from .cli_evaluate import add_evaluation_commands
from .cli_hub import add_hub_commands
from .cli_loading import be_quiet, checkpoint_arguments, load_world
from .cli_plan import add_plan_command
from .cli_serve import add_serving_commands
from .cli_train import add_training_commands

if TYPE_CHECKING:
    import torch


USAGE_ERROR = 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets ``run`` to the function that executes it."""
    parser = argparse.ArgumentParser(prog="ivideogpt", description="iVideoGPT, the interactive world model.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    model, device = checkpoint_arguments()

    predict = commands.add_parser(
        "predict",
        parents=[common, model, device],
        help="predict how a video goes on",
        description="Predict how a video goes on, and write a moving picture of it beside the true future, if known. "
        "Without arguments: the embedded model on the embedded episode.",
    )
    predict.add_argument("video", nargs="?", help="mp4, gif, npz, npy or a folder of images; its first frames are used")
    predict.add_argument("--checkpoint", help="folder or Hub id (default: the embedded one)")
    predict.add_argument("--actions", help="npy, npz, csv or json with one row per predicted frame")
    predict.add_argument("--goal", help="image file with the goal, for a goal-conditioned checkpoint")
    predict.add_argument(
        "--num-frames", type=int, help="frames to predict (default: as many as actions or frames tell)"
    )
    predict.add_argument("--num-samples", type=int, default=1, help="different futures to predict (default: 1)")
    predict.add_argument("--seed", type=int, default=0, help="the same seed gives the same video (default: 0)")
    predict.add_argument("--greedy", action="store_true", help="take the likeliest tokens instead of sampling")
    predict.add_argument("--output", default="outputs/prediction.gif", help="mp4 or gif (default: %(default)s)")
    predict.add_argument("--fps", type=int, default=10, help="frames per second of the output (default: 10)")
    predict.set_defaults(run=_predict)

    convert = commands.add_parser(
        "convert", parents=[common, model], help="convert a checkpoint between the released layout and ours"
    )
    convert.add_argument("source", help="folder or Hub id, in either layout")
    convert.add_argument("output", help="folder to write")
    convert.add_argument("--to", choices=("ours", "released"), default="ours", help="layout to write (default: ours)")
    convert.add_argument("--goal-conditioned", action="store_true", help="the first context frame is the goal")
    convert.add_argument("--remote-code", action="store_true", help="add the code, for trust_remote_code=True")
    convert.set_defaults(run=_convert)

    add_data_commands(commands, common)
    add_training_commands(commands, common)
    add_evaluation_commands(commands, common, [model, device])
    add_plan_command(commands, common, [model, device])
    add_hub_commands(commands, common)
    add_serving_commands(commands, common, [model, device])

    info = commands.add_parser("info", parents=[common, model, device], help="what a checkpoint is, and what it costs")
    info.add_argument("checkpoint", nargs="?", help="folder or Hub id (default: the embedded one)")
    info.add_argument("--benchmark", action="store_true", help="time rollouts of 1, 8 and 64 candidates as well")
    info.set_defaults(run=_info)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 after an error, told in one line, or one of the command's own."""
    parser = build_parser()
    args, args.more = parser.parse_known_args(argv)
    if args.more and not getattr(args, "takes_more", False):
        parser.error(f"unrecognized arguments: {' '.join(args.more)}")
    try:
        code = args.run(args)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        print(f"ivideogpt: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    return code or 0


def _predict(args: argparse.Namespace) -> None:
    from .action_files import read_actions
    from .checkpoints import EXAMPLE_EPISODE
    from .media import read_video, side_by_side, write_video
    from .pipeline import IVideoGPTPipeline
    from .sampling import Sampling

    world = load_world(args)
    video, actions = args.video, args.actions
    if video is None:
        if args.checkpoint is not None or actions is not None:
            raise ValueError("which video? Give a file or a folder of images; only the embedded model has its own")
        video = actions = EXAMPLE_EPISODE
    frames = read_video(video)
    num_context = world.spec.num_context_frames - int(world.spec.goal_conditioned)
    true_future = world.processor.resize_frames(frames[num_context:])
    actions = None if actions is None else read_actions(actions)
    num_frames = args.num_frames
    if num_frames is None:
        num_frames = len(actions) if actions is not None else len(true_future)
    if args.video is None:  # the episode's actions begin at its first frame
        first = num_context - 1
        num_frames = min(num_frames, len(actions) - first, world.spec.max_future_frames)
        actions = actions[first:]
    if num_frames < 1:
        raise ValueError(f"{video} holds no frame after the {num_context} context frames: pass --num-frames")
    pipeline = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    predicted = pipeline(
        frames,
        actions=None if actions is None else actions[:num_frames],
        goal=args.goal,
        num_frames=num_frames,
        num_samples=args.num_samples,
        sampling=Sampling(seed=args.seed, greedy=args.greedy),
        output_type="pt",
    ).frames[0]
    clips = list(predicted)
    if len(true_future) >= num_frames:
        _report_error(true_future[:num_frames], predicted)
        clips.insert(0, true_future[:num_frames])
    scale = max(1, 256 // world.spec.frame_size[0])
    path = write_video(side_by_side(*clips), args.output, fps=args.fps, scale=scale)
    shown = "the true future and " if len(clips) > len(predicted) else ""
    print(f"{path}: {shown}{len(predicted)} predicted, {num_frames} frames each")


def _report_error(true_future: torch.Tensor, predicted: torch.Tensor) -> None:
    """Print how far predictions (N, T, 3, H, W) uint8 are from the truth, beside what a grey image would be."""

    def psnr(frames: torch.Tensor) -> float:
        error = (frames.float() - true_future.float()).div(255).square().mean()
        return -10 * error.clamp(min=1e-8).log10().item()

    best = max(psnr(frames) for frames in predicted)
    grey = true_future.new_full(true_future.shape, 128)
    print(f"PSNR {best:.2f} dB against the true future (a grey image: {psnr(grey):.2f} dB)")


def _convert(args: argparse.Namespace) -> None:
    from .released import save_released
    from .world_model import WorldModel

    if Path(args.output).resolve() == Path(args.source).resolve():
        raise ValueError("source and output are the same folder")
    be_quiet()
    goal_conditioned = True if args.goal_conditioned else None
    world = WorldModel.from_pretrained(
        args.source, revision=args.revision, token=args.token, goal_conditioned=goal_conditioned
    )
    if args.to == "released":
        save_released(args.output, (world.vq_model, world.transformer, world.processor))
    else:
        world.save_pretrained(args.output, remote_code=args.remote_code)
    print(f"{args.output}: written in {'the released' if args.to == 'released' else 'our'} layout")


def _info(args: argparse.Namespace) -> None:
    from .info import benchmark, describe

    world = load_world(args)
    print(describe(world))
    if args.benchmark:
        print(f"\n{benchmark(world)}")


if __name__ == "__main__":
    sys.exit(main())

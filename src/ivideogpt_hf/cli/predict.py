"""``ivideogpt predict``: predict how a video goes on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .arguments import CHECKPOINT_HELP, add_alignment, embedded_checkpoint, load_world

if TYPE_CHECKING:
    from torch import Tensor


def add_predict_command(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Add ``predict``."""
    predict = commands.add_parser(
        "predict",
        parents=parents,
        help="predict how a video goes on",
        description="Predict how a video goes on, and write a moving picture of it beside the true future, if known. "
        "Without a video: an embedded model on its own episode.",
    )
    predict.add_argument("video", nargs="?", help="mp4, gif, npz, npy or a folder of images")
    predict.add_argument("--checkpoint", help=f"{CHECKPOINT_HELP} (default: default)")
    predict.add_argument(
        "--actions",
        help="csv, tsv, json, jsonl, npy or npz with the video's actions. Row t leads from frame t to frame t + 1. "
        "There is a row for each frame, or for each but the last. A column 'frame' (from 0) may number the frames, "
        "and a column 'clip' may name the videos. With --num-frames N, N rows may lead to the N predicted frames "
        "instead",
    )
    add_alignment(predict)
    predict.add_argument("--goal", help="image file with the goal, for a goal-conditioned checkpoint")
    predict.add_argument(
        "--start",
        type=int,
        default=0,
        help="number of the video's frame with which the context begins (default: %(default)s)",
    )
    predict.add_argument(
        "--num-frames",
        type=int,
        help="frames to predict (default: as many as follow in the video, but no more than the checkpoint predicts "
        "from one context)",
    )
    predict.add_argument(
        "--num-samples", type=int, default=1, help="different futures to predict (default: %(default)s)"
    )
    predict.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same video (default: %(default)s)"
    )
    predict.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="temperature of the samples (default: %(default)g); below 1, they are nearer to the likeliest future",
    )
    predict.add_argument("--greedy", action="store_true", help="take the likeliest tokens instead of sampling")
    predict.add_argument("--output", default="outputs/prediction.gif", help="mp4 or gif (default: %(default)s)")
    predict.add_argument("--fps", type=float, default=10, help="frames per second of the output (default: %(default)s)")
    predict.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> None:
    from ..cards.text import counted
    from ..checkpoints.layout import EPISODE_FILE
    from ..decoding.sampling import Sampling
    from ..media.actions import read_future_actions
    from ..media.video import check_video_path, count_frames, read_video, side_by_side, write_video
    from ..pipeline import IVideoGPTPipeline
    from ..spec import first_action, split_clip

    if args.num_frames is not None and args.num_frames < 1:
        raise ValueError(f"--num-frames must be at least 1, got {args.num_frames}")
    if args.start < 0:
        raise ValueError(f"--start must be 0 or more, got {args.start}")
    sampling = Sampling(args.temperature, seed=args.seed, greedy=args.greedy)
    check_video_path(args.output, args.fps)
    world = load_world(args)
    spec, video, file = world.spec, args.video, args.actions
    if video is None:
        embedded = embedded_checkpoint(args)
        if embedded is None or file is not None:
            raise ValueError("which video? Give a file or a folder of images; only an embedded model has its own")
        video = file = embedded.folder / EPISODE_FILE
    num_context = spec.num_real_context_frames
    num_frames, actions = args.num_frames, None
    end = args.start + num_context
    if args.start and (length := count_frames(video)) < end:
        raise ValueError(
            f"{video} has {counted(length, 'frame')}, and a context of {num_context} that begins with frame "
            f"{args.start} needs {end}: lower --start"
        )
    if file is not None:
        row = args.start + first_action(num_context)
        actions, first = read_future_actions(
            file, video, first_row=row, num_frames=num_frames, alignment=args.action_alignment
        )
        num_frames = num_frames or min(len(actions), spec.max_future_frames)
        print(f"{file}: rows {first} to {first + num_frames - 1}, counted from 0, lead to the predicted frames")
    frames = read_video(video, max_frames=end + (num_frames or spec.max_future_frames), resize=spec.resize_frames)
    context, true_future, _ = split_clip(frames[args.start :], num_context_frames=num_context)
    if spec.action_dim and file is None:
        raise ValueError(
            f"this model is action-conditioned: actions of width {spec.action_dim} are missing, give them by --actions "
            f"FILE"
        )
    num_frames = num_frames or len(true_future)
    if num_frames < 1:
        raise ValueError(f"{video} holds no frame after the {len(context)} context frames: pass --num-frames")
    pipeline = IVideoGPTPipeline(world.vq_model, world.transformer, world.processor)
    output = pipeline(
        context,
        actions=None if actions is None else actions[:num_frames],
        goal=args.goal,
        num_frames=num_frames,
        num_samples=args.num_samples,
        sampling=sampling,
        output_type="pt",
    )
    predicted = output.frames[0].cpu()
    clips = list(predicted)
    if len(true_future) >= num_frames:
        clips.insert(0, true_future[:num_frames])
        _report_error(predicted, clips[0], context[-1])
    scale = max(1, 256 // spec.frame_size[0])
    path = write_video(side_by_side(*clips), args.output, fps=args.fps, scale=scale)
    truth = "the true future and " if len(clips) > len(predicted) else ""
    print(f"{path}: {truth}{len(predicted)} predicted, {counted(num_frames, 'frame')} each")


def _report_error(predicted: Tensor, true_future: Tensor, last_frame: Tensor) -> None:
    """Print the PSNR of the best of the predictions (N, T, 3, H, W) uint8, and that of repeating the last frame."""
    from ..metrics.frames import psnr

    best = psnr(predicted, true_future).mean(1).max()
    repeated = psnr(last_frame.expand_as(true_future), true_future).mean()
    print(f"PSNR {best:.2f} dB against the true future (the last frame repeated: {repeated:.2f} dB)")

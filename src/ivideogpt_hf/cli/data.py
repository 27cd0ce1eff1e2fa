"""The commands that make and show data: ``ivideogpt convert-data | collect | show``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..data.read_options import Fit
from ..extras import require_packages
from .arguments import add_alignment, parse_shard
from .ray_cluster import ray_tasks

if TYPE_CHECKING:
    from ..data.clips.dataset import SegmentDataset
    from ..data.readers import EpisodeReader


MAX_SKIPPED = 0.01


def add_data_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
    """
    writing = _writing_options()
    _add_convert(commands, [common, writing])
    _add_collect(commands, [common, writing])
    _add_show(commands, common)


def _writing_options() -> argparse.ArgumentParser:
    """Parent parser of the commands that write a data set."""
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--push", metavar="REPO", help="also upload the result to this data set on the Hub")
    writing.add_argument("--card", type=Path, help="yaml for the card: title, summary, source, license, license_note")
    writing.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    writing.add_argument(
        "--num-workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )
    writing.add_argument(
        "--shard",
        type=parse_shard,
        default=(0, 1),
        metavar="I/N",
        help="do only part I (from 0) of N, for a job array of a cluster",
    )
    writing.add_argument(
        "--num-shards",
        type=int,
        help="Parquet files to write, shared by the splits as the episodes are (default: by the number of episodes)",
    )
    writing.add_argument(
        "--test-fraction",
        type=float,
        default=0.05,
        help="share of episodes held out as split test (default: %(default)g)",
    )
    return writing


def _add_convert(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser(
        "convert-data",
        parents=parents,
        help="make a data set of any video, with or without actions",
        description="Make a Hugging Face data set of episodes from npz, HDF5, LeRobot v3.0, TFRecord (RLDS), or "
        "folders of videos or images. After a kill, the same command goes on where it stopped. Where the source has "
        "changed, it says so, and --update takes in what changed.",
    )
    convert.add_argument("source", help="file, folder, or id of a data set on the Hub")
    convert.add_argument("output", help="folder to write")
    _add_reading(convert)
    convert.add_argument("--resize", type=_size, metavar="HxW", help="resize frames (default: as they are)")
    convert.add_argument(
        "--fit",
        choices=get_args(Fit),
        help="with --resize, where the aspect changes: crop what protrudes, pad with black, squash (default: squash, "
        "but clips of different aspects are refused)",
    )
    convert.add_argument("--fps", type=float, help="resample video to this rate (default: every frame)")
    convert.add_argument(
        "--action-low", type=float, nargs="+", metavar="X", help="lower bounds of the actions, one per dimension"
    )
    convert.add_argument(
        "--action-high", type=float, nargs="+", metavar="X", help="upper bounds of the actions, one per dimension"
    )
    convert.add_argument(
        "--skip-bad", action="store_true", help="leave out episodes that cannot be read, and list them"
    )
    convert.add_argument(
        "--max-skipped",
        type=float,
        default=MAX_SKIPPED,
        help="with --skip-bad: fail above this share (default: %(default)g)",
    )
    convert.add_argument(
        "--max-bytes",
        type=int,
        metavar="N",
        help="bytes that the decoded frames of an episode may take, and a picture a sixteenth of it (default: 4 GiB)",
    )
    convert.add_argument(
        "--update",
        action="store_true",
        help="convert what has changed in the source since the last time, and keep the rest of the data set",
    )
    convert.add_argument(
        "--hash-source",
        action="store_true",
        help="recognise files by their content, not by their times, which copying changes; reads every file",
    )
    convert.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="address of a Ray cluster to run on ('local' starts one here), with a task for each Parquet file",
    )
    convert.set_defaults(run=_convert)


def _add_collect(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    collect = commands.add_parser(
        "collect",
        parents=parents,
        help="make a data set of episodes from a simulated environment",
        description="Make a data set of simulated episodes. The environment is push2d, metaworld/<task>, "
        "robodesk/<task>, pusht, or any Gymnasium environment that renders and has continuous actions. `ivideogpt list "
        "environments` shows them. Every episode follows from its seed.",
    )
    collect.add_argument("environment", help="such as push2d, metaworld/plate-slide or Pendulum-v1")
    collect.add_argument("output", help="folder to write")
    collect.add_argument("--num-episodes", type=int, default=100, help="number of episodes (default: %(default)s)")
    collect.add_argument("--num-frames", type=int, default=101, help="frames of an episode (default: %(default)s)")
    collect.add_argument(
        "--policy",
        default="scripted",
        help="scripted, random, or package.module:name of a function or class (default: %(default)s)",
    )
    collect.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="standard deviation of noise on actions, in half ranges (default: %(default)g)",
    )
    collect.add_argument(
        "--noise-fraction", type=float, default=0.0, help="share of episodes with noise (default: %(default)g)"
    )
    collect.add_argument("--size", type=int, default=64, help="side of the frames in pixels (default: %(default)s)")
    collect.add_argument(
        "--action-repeat", type=int, default=1, help="simulator steps per action (default: %(default)s)"
    )
    collect.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    collect.set_defaults(run=_collect)


def _add_show(commands: Any, common: argparse.ArgumentParser) -> None:
    show = commands.add_parser(
        "show",
        parents=[common],
        help="draw episodes, or training clips as the model sees them",
        description="Draw whole episodes of any source that convert-data reads, or, with --clips, training clips of a "
        "data set or a mixture: after stride, crop, colour change and normalisation.",
    )
    show.add_argument("source", help="what convert-data takes; with --clips a converted data set or a mixture's yaml")
    show.add_argument("--output", default="outputs/show.png", help="png, jpg, gif or mp4 (default: %(default)s)")
    show.add_argument("--fps", type=float, default=10, help="frames per second of a gif or mp4 (default: %(default)s)")
    show.add_argument("--episodes", type=int, nargs="+", default=[0], help="which episodes, from 0 (default: 0)")
    _add_reading(show)
    show.add_argument("--clips", type=int, metavar="N", help="show N training clips instead of episodes")
    clips = show.add_argument_group("with --clips")
    clips.add_argument("--num-frames", type=int, default=16, help="frames of a clip (default: %(default)s)")
    clips.add_argument("--num-context-frames", type=int, default=2, help="context frames (default: %(default)s)")
    clips.add_argument(
        "--horizon",
        type=int,
        help="strides within which future frames are drawn at random",
    )
    clips.add_argument("--goal-conditioned", action="store_true", help="put the last frame first, as the goal")
    clips.add_argument("--stride", type=float, help="distance between frames, for a single data set (default: 1)")
    clips.add_argument("--split", help="split of a single data set (default: train)")
    clips.add_argument("--size", type=_size, metavar="HxW", help="resize to this (default: as stored)")
    clips.add_argument("--augmentation", choices=("none", "weak", "strong"), default="none", help="default: none")
    clips.add_argument("--standardize", action="store_true", help="standardize actions, for a single data set")
    clips.add_argument("--seed", type=int, default=0, help="seed of the clips (default: %(default)s)")
    clips.add_argument("--epoch", type=int, default=0, help="number of the epoch (default: %(default)s)")
    clips.add_argument("--root", help="folder of the mixture's data sets (default: that of its yaml)")
    show.set_defaults(run=_show, clip_options={action.dest: action.default for action in clips._group_actions})


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reader", metavar="NAME", help="name of the format, where the source holds several")
    parser.add_argument("--cameras", nargs="+", metavar="NAME", help="cameras to take (default: all that are RGB)")
    parser.add_argument(
        "--action-key", metavar="NAME", help="name of the actions in the source (default: the format's usual names)"
    )
    add_alignment(parser)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"must be HxW, such as 64x64, got {text!r}")
    return int(height), int(width)


def _convert(args: argparse.Namespace) -> None:
    from ..data.readers import open_episodes

    if args.max_skipped != MAX_SKIPPED and not args.skip_bad:
        raise ValueError("--max-skipped is for --skip-bad, without which the first bad episode ends the conversion")
    require_packages("datasets", *(() if args.ray is None else ("ray",)), purpose="a data set")
    reader = open_episodes(
        args.source,
        reader=args.reader,
        cameras=args.cameras,
        size=args.resize,
        fit=args.fit,
        fps=args.fps,
        action_key=args.action_key,
        action_alignment=args.action_alignment,
        action_low=args.action_low,
        action_high=args.action_high,
        max_bytes=args.max_bytes,
    )
    description = {"source": args.source, "reader": reader.name, **reader.options.to_json()}
    settings = {name: getattr(args, name) for name in ("skip_bad", "max_skipped", "hash_source")}
    _write(args, reader, description, update=args.update, ray_address=args.ray, **settings)


def _collect(args: argparse.Namespace) -> None:
    from ..data.convert.collect import Behaviour, SimulatedEpisodes

    require_packages("datasets", purpose="a data set")
    sys.path.insert(0, os.getcwd())  # policies and environments of the user are imported from here
    behaviour = Behaviour(args.policy, args.noise_fraction, args.noise)
    settings = {"size": args.size, "action_repeat": args.action_repeat, "seed": args.seed}
    reader = SimulatedEpisodes(args.environment, args.num_episodes, args.num_frames, behaviour, **settings)
    description = {"environment": args.environment, "num_frames": args.num_frames, **vars(behaviour), **settings}
    _write(args, reader, description)


def _show(args: argparse.Namespace) -> None:
    from ..cards.text import counted
    from ..data.show import clip_strips, episode_strips, write_strips

    _refuse_unused(args)
    if args.clips is None:
        from ..data.readers import open_episodes

        reader = open_episodes(
            args.source,
            reader=args.reader,
            cameras=args.cameras,
            action_key=args.action_key,
            action_alignment=args.action_alignment,
        )
        strips = episode_strips(reader, args.episodes)
    else:
        strips = clip_strips(_clips(args), args.clips, args.epoch)
    path = write_strips(strips, Path(args.output), args.fps)
    print(f"{path}: {counted(len(strips), 'clip' if args.clips else 'strip')}; bars are actions, r is the reward")


def _refuse_unused(args: argparse.Namespace) -> None:
    """Raise ValueError if an option was given that would change nothing in what is shown."""
    if args.clips is None:
        unused = [name for name, default in args.clip_options.items() if getattr(args, name) != default]
        way = "add --clips N"
    else:
        unused = [name for name in ("reader", "action_key", "action_alignment") if getattr(args, name) is not None]
        unused += ["episodes"] * (args.episodes != [0])
        way = "leave --clips out"
    if unused:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise ValueError(f"{options}: only for {'clips' if args.clips is None else 'whole episodes'}; {way}")


def _clips(args: argparse.Namespace) -> SegmentDataset:
    """The clips that were asked for, with actions and rewards where the data have them."""
    from ..data.clips.dataset import SegmentDataset
    from ..data.clips.mixture import Source, load_mixture
    from ..data.clips.segments import SegmentSpec

    mixture = load_mixture(args.source, root=args.root)
    settings = {"stride": args.stride, "split": args.split, "cameras": args.cameras}
    settings = {name: value for name, value in settings.items() if value is not None}
    if args.standardize:
        settings["action_normalization"] = "standardize"
    if settings:
        if [source.path for source in mixture.sources] != [args.source]:
            raise ValueError(f"a mixture's own yaml sets these for each source: {', '.join(settings)}")
        mixture = load_mixture(Source(args.source, **settings))
    segment = SegmentSpec(args.num_frames, args.num_context_frames, args.horizon, args.goal_conditioned)
    return SegmentDataset(
        mixture,
        segment,
        size=args.size,
        augmentation=args.augmentation,
        seed=args.seed,
        actions=None,
        rewards=None,
    )


def _write(
    args: argparse.Namespace,
    reader: EpisodeReader,
    description: dict[str, Any],
    *,
    update: bool = False,
    ray_address: str | None = None,
    **settings: Any,
) -> None:
    """Write a reader's episodes, report on them, and publish them if asked to."""
    from ..data.convert.conversion import Conversion
    from ..data.convert.dataset_card import DatasetText
    from ..data.convert.dataset_report import write_dataset_report
    from ..data.convert.shards import ConversionSettings
    from ..hub.errors import check_new_id

    if args.push is not None:
        check_new_id(args.push)
    elif args.private:
        raise ValueError("--private is for --push REPO: it makes a new repository on the Hub private")
    card = None if args.card is None else DatasetText.read(args.card)
    settings |= {"test_fraction": args.test_fraction, "num_shards": args.num_shards}
    output = Path(args.output)
    conversion = Conversion(reader, output, ConversionSettings(**settings), description, update=update)
    with nullcontext() if ray_address is None else ray_tasks(ray_address) as pool:
        statistics = conversion.run(job=args.shard, num_workers=args.num_workers, pool=pool)
    if statistics is None:
        num_done = sum(map(conversion.is_done, conversion.shards))
        print(f"{output}: this part is done; {num_done} of {len(conversion.shards)} shards are there")
        return
    print(write_dataset_report(output, statistics, card, reader.notes, conversion.source.summary))
    print(f"{output}: written; look at {output / 'contact_sheet.png'}")
    if args.push is not None:
        from ..data.convert.publishing import push_dataset

        print(push_dataset(output, args.push, private=args.private))

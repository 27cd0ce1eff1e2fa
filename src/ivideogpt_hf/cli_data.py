"""The commands that make and show data: ``ivideogpt convert-data | collect | show``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.readers import EpisodeReader


def add_data_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of all."""
    shards = argparse.ArgumentParser(add_help=False)
    shards.add_argument("--push", metavar="REPO", help="also upload the result to this data set on the Hub")
    shards.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    shards.add_argument("--num-workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    shards.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="do part I (from 0) of N, in a cluster's job array"
    )
    shards.add_argument("--num-shards", type=int, help="Parquet files to write (default: by the number of episodes)")
    shards.add_argument(
        "--test-fraction", type=float, default=0.05, help="share of episodes held out as split test (default: 0.05)"
    )

    convert = commands.add_parser(
        "convert-data",
        parents=[common, shards],
        help="make a data set of any video, with or without actions",
        description="Make a Hugging Face data set of episodes from npz, HDF5, LeRobot v3.0, TFRecord (RLDS), or "
        "folders of videos or images. After a kill, the same command goes on where it stopped.",
    )
    convert.add_argument("source", help="file, folder, or id of a data set on the Hub")
    convert.add_argument("output", help="folder to write")
    convert.add_argument("--reader", help="name of the format, where the source holds several")
    convert.add_argument("--cameras", nargs="+", help="cameras to keep (default: all)")
    convert.add_argument(
        "--resize", type=_size, metavar="HxW", help="resize frames, such as 64x64 (default: as they are)"
    )
    convert.add_argument(
        "--skip-bad", action="store_true", help="leave out episodes that cannot be read, and list them"
    )
    convert.add_argument(
        "--max-skipped", type=float, default=0.01, help="with --skip-bad: fail above this share (default: 0.01)"
    )
    convert.set_defaults(run=_convert)


def _shard(text: str) -> tuple[int, int]:
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and int(number) < int(total)):
        raise argparse.ArgumentTypeError(f"must be I/N with 0 <= I < N, such as 0/8, got {text!r}")
    return int(number), int(total)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"must be HxW, such as 64x64, got {text!r}")
    return int(height), int(width)


def _convert(args: argparse.Namespace) -> None:
    from .data.readers import open_episodes

    reader = open_episodes(args.source, reader=args.reader, cameras=args.cameras, size=args.resize)
    description = {"source": args.source, "reader": reader.name, "cameras": args.cameras, "size": args.resize}
    _write(args, reader, description, skip_bad=args.skip_bad, max_skipped=args.max_skipped)


def _write(args: argparse.Namespace, reader: EpisodeReader, description: dict[str, Any], **settings: Any) -> None:
    """Write a reader's episodes, report on them, and publish them if asked to."""
    from .data.conversion import Conversion, ConversionSettings
    from .data.report import write_report

    settings |= {"test_fraction": args.test_fraction, "num_shards": args.num_shards}
    output = Path(args.output)
    conversion = Conversion(reader, output, ConversionSettings(**settings), description)
    statistics = conversion.run(job=args.shard, num_workers=args.num_workers)
    if statistics is None:
        done = sum(map(conversion.is_done, conversion.shards))
        print(f"{output}: this part is done; {done} of {len(conversion.shards)} shards are there")
        return
    print(write_report(output, statistics))
    print(f"{output}: written; look at {output / 'contact_sheet.png'}")
    if args.push is not None:
        from .data.publishing import push_dataset

        print(push_dataset(output, args.push, private=args.private))

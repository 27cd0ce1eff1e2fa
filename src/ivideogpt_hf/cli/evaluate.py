"""The commands that measure: ``ivideogpt evaluate | compare``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import CHECKPOINT_HELP, embedded_checkpoint, load_world, parse_shard

if TYPE_CHECKING:
    import torch

    from ..evaluation.features import VideoFeatures
    from ..evaluation.measures import Networks

WITHOUT = "none"
PROTOCOL_NAMES = ("bair", "bair-act-free", "robonet", "vp2", "custom")


def add_evaluation_commands(
    commands: Any, common: argparse.ArgumentParser, checkpoint: list[argparse.ArgumentParser]
) -> None:
    """Add the commands.

    Args:
        commands: subparsers of the command line.
        common: parent parser of all commands.
        checkpoint: parent parsers of commands that load a checkpoint.
    """
    evaluate = commands.add_parser(
        "evaluate",
        parents=[common, *checkpoint],
        help="measure a checkpoint on held-out clips by the paper's protocols",
        description="Measure predicted video by PSNR, SSIM, LPIPS and a Frechet distance. The same is measured of the "
        "last frame repeated, of the VQ model's own reconstruction, and of predictions with wrong actions. Rewards and "
        "the use of tokens are measured too. Writes results.json, curves (png, svg, pdf), tables (csv, tex), "
        "report.html and videos. After a kill, the same command goes on. Under `accelerate launch` or `torchrun`, or "
        "with --shard, processes share the clips.",
    )
    evaluate.add_argument("checkpoint", help=CHECKPOINT_HELP)
    evaluate.add_argument("data", help="data set or mixture, as for training")
    evaluate.add_argument(
        "--protocol", choices=PROTOCOL_NAMES, default="custom", help="how to measure (default: %(default)s)"
    )
    evaluate.add_argument(
        "--output", type=Path, default=Path("outputs/evaluation"), help="folder (default: %(default)s)"
    )
    evaluate.add_argument("--root", help="folder of a mixture's data sets (default: that of its yaml)")
    evaluate.add_argument("--split", default="test", help="split of the data (default: %(default)s)")
    evaluate.add_argument("--num-clips", type=int, help="number of clips (default: the protocol's, 256)")
    evaluate.add_argument("--num-samples", type=int, help="futures of a clip (default: the protocol's, 100; custom: 8)")
    evaluate.add_argument("--num-context-frames", type=int, help="number of context frames (custom: default 2)")
    evaluate.add_argument("--num-future-frames", type=int, help="number of predicted frames (custom: default 10)")
    evaluate.add_argument("--temperature", type=float, help="temperature of the samples (custom: default 1)")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")
    evaluate.add_argument("--lpips-weights", help="safetensors file, or owner/name/file on the Hub; 'none' skips LPIPS")
    evaluate.add_argument(
        "--features",
        help="features of a Frechet distance. For FVD, i3d_torchscript.pt: a file, or owner/name/file on the Hub. "
        "'transnet' needs no download but is not FVD (default: no such distance)",
    )
    evaluate.add_argument(
        "--shard", type=parse_shard, metavar="I/N", help="measure part I (from 0) of N of the clips only"
    )
    evaluate.add_argument(
        "--record", action="store_true", help="add the results to the checkpoint's metrics.json, for its card"
    )
    evaluate.set_defaults(run=_evaluate)

    compare = commands.add_parser(
        "compare",
        parents=[common],
        help="put evaluations side by side, with the published numbers",
        description="Print a table of several evaluations of one protocol and the same clips, and what others found.",
    )
    compare.add_argument("runs", nargs="+", type=Path, help="folders that evaluate wrote")
    compare.add_argument("--output", type=Path, help="also write the table: .md, .csv or .tex")
    compare.set_defaults(run=_compare)


def _evaluate(args: argparse.Namespace) -> None:
    from ..checkpoints.layout import record_evaluation
    from ..evaluation.evaluate import Evaluation, require_evaluation_packages
    from ..evaluation.held_out import HeldOutClips
    from ..evaluation.protocols import PROTOCOLS
    from ..evaluation.rendering import evaluation_as_text
    from ..run_folder import check_folder

    require_evaluation_packages()
    check_folder(args.output)
    embedded = embedded_checkpoint(args)
    folder = Path(args.checkpoint) if embedded is None else embedded.folder
    if args.record and not folder.is_dir():
        raise ValueError(f"--record writes into the checkpoint, which must be a folder; {args.checkpoint} is none")
    shard = args.shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    options = ("num_clips", "num_samples", "num_context_frames", "num_future_frames", "temperature")
    protocol = PROTOCOLS[args.protocol].changed(**{name: getattr(args, name) for name in options})
    world = load_world(args)
    networks = _networks(args, world.device)
    clips = HeldOutClips(
        args.data,
        protocol,
        world.spec.frame_size,
        root=args.root,
        split=args.split,
        goal_conditioned=world.spec.goal_conditioned,
        seed=args.seed,
    )
    evaluation = Evaluation(world, args.checkpoint, clips, networks, args.output, seed=args.seed)
    results = evaluation.run(shard)
    if results is None:
        print(f"{args.output}: this part is done; {evaluation.num_done} of {len(clips)} clips are there")
        return
    print(evaluation_as_text(results))
    print(f"\n{args.output}: look at {args.output / 'report.html'}")
    if args.record:
        record_evaluation(folder, results)


def _networks(args: argparse.Namespace, device: torch.device) -> Networks:
    from ..evaluation.measures import Networks
    from ..metrics.lpips import LPIPS

    features = _features(args.features, device)
    if args.lpips_weights == WITHOUT:
        return Networks(features=features)
    try:
        lpips = LPIPS.from_weights(args.lpips_weights).to(device)
    except OSError as error:
        raise OSError(f"{error}. Use --lpips-weights {WITHOUT} to measure without LPIPS") from error
    return Networks(lpips, features)


def _features(name: str | None, device: torch.device) -> VideoFeatures | None:
    from ..evaluation.features import i3d_features, transnet_features

    if name is None:
        return None
    return transnet_features(device) if name == "transnet" else i3d_features(name, device)


def _compare(args: argparse.Namespace) -> None:
    from ..cards.model_card import CardText
    from ..cards.text import CARDS
    from ..evaluation.compare import comparison, read_results
    from ..evaluation.tables import as_markdown, check_table_path, write_table

    if args.output is not None:
        check_table_path(args.output)
    runs = [read_results(folder) for folder in args.runs]
    card = runs[0]["protocol"]["card"]
    published = CardText.read(CARDS / f"{card}.yaml").published.get("rows", []) if card else []
    rows = comparison(runs, published)
    print(as_markdown(rows))
    if args.output is not None:
        write_table(rows, args.output)

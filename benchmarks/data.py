"""Training clips per second: ours against the original's way, and against the bound of decoding and doing nothing else.

    python benchmarks/data.py --output benchmarks/results/data.json

The data are the embedded episode, forwards and backwards (101 frames of 64 x 64), as 24 episodes: in our schema, and as
the compressed npz files of the original. A clip is 16 frames. The original's way is written here from its description:
the file is opened and decompressed twice for each sample (frames, actions), and crop, resize and colour change are done
frame by frame with Pillow.
"""

from __future__ import annotations

import argparse
import io
import itertools
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from writing import write_results

from ivideogpt_hf import EXAMPLE_EPISODE, __version__, read_actions, read_video
from ivideogpt_hf.data.clips.augment import AUGMENTATIONS, draw_crop
from ivideogpt_hf.data.clips.loader import load_clips
from ivideogpt_hf.data.clips.segments import SegmentSpec
from ivideogpt_hf.data.convert.conversion import Conversion
from ivideogpt_hf.data.convert.shards import ConversionSettings
from ivideogpt_hf.data.readers import open_episodes

NUM_EPISODES, NUM_FRAMES, BATCH = 24, 16, 8
SIZE = (64, 64)


def write_sources(folder):
    frames = read_video(EXAMPLE_EPISODE).movedim(1, -1).numpy()
    actions = read_actions(EXAMPLE_EPISODE).numpy()
    frames = np.concatenate([frames, frames[-2::-1]] * 3)[:101]
    actions = np.resize(actions, (len(frames), actions.shape[1]))
    for index in range(NUM_EPISODES):
        file = folder / "npz" / f"{index}.npz"
        file.parent.mkdir(exist_ok=True)
        np.savez_compressed(file, image=np.roll(frames, index, axis=2), action=actions)
    reader = open_episodes(folder / "npz")
    Conversion(reader, folder / "data", ConversionSettings(0.0, num_shards=6), {}).run()


class OriginalClips(torch.utils.data.Dataset):
    """The original's loader, as its description has it."""

    def __init__(self, folder, augmentation):
        self.files = sorted((folder / "npz").iterdir())
        self.augmentation = AUGMENTATIONS[augmentation]

    def __len__(self):
        return 10**9

    def __getitem__(self, _):
        generator = np.random.default_rng()
        file = self.files[generator.integers(len(self.files))]
        episode, action = np.load(file)["image"], np.load(file)["action"]
        start = generator.integers(len(episode) - NUM_FRAMES + 1)
        frames = torch.tensor(np.array(list(episode[start : start + NUM_FRAMES])), dtype=torch.float32).permute(
            0, 3, 1, 2
        )
        actions = torch.tensor(action[start : start + NUM_FRAMES])
        if self.augmentation is None:
            return torch.nn.functional.interpolate(frames / 255, SIZE, mode="bilinear", antialias=True), actions
        return self.augment(frames, generator), actions

    def augment(self, frames, generator):
        top, left, height, width = draw_crop(*frames.shape[-2:], self.augmentation, generator)
        factors = generator.uniform(*self.augmentation.factor, size=3)
        turns = generator.uniform(*self.augmentation.hue)
        order = generator.permutation(4)
        images = []
        for frame in frames:
            window = frame[None, :, top : top + height, left : left + width]
            frame = torch.nn.functional.interpolate(window, SIZE, mode="bilinear", antialias=True)[0]
            image = Image.fromarray(frame.round().byte().permute(1, 2, 0).numpy())
            for change in order:
                if change == 3:
                    hue, saturation, value = image.convert("HSV").split()
                    shifted = (np.asarray(hue).astype(np.int16) + int(turns * 255)) % 256
                    hue = Image.fromarray(shifted.astype(np.uint8))
                    image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
                else:
                    enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
                    image = enhancer(image).enhance(factors[change])
            images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)
        return torch.stack(images)


def original(folder, augmentation, num_workers):
    dataset = OriginalClips(folder, augmentation)
    return torch.utils.data.DataLoader(dataset, BATCH, num_workers=num_workers)


def ours(folder, augmentation, num_workers, streaming=False):
    loader = load_clips(
        str(folder / "data"),
        batch_size=BATCH,
        segment=SegmentSpec(NUM_FRAMES),
        size=SIZE,
        augmentation=augmentation,
        actions=True,
        num_workers=num_workers,
        streaming=streaming,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


class DecodeOnly(torch.utils.data.Dataset):
    """The same images as ours, decoded, and nothing else."""

    def __init__(self, folder):
        loader = load_clips(str(folder / "data"), batch_size=BATCH, segment=SegmentSpec(NUM_FRAMES))
        store = loader.dataset.sources[0].store
        lengths = store.num_frames.tolist()
        self.images = [store.images(episode, "image", range(length)) for episode, length in enumerate(lengths)]

    def __len__(self):
        return 10**9

    def __getitem__(self, index):
        episode = self.images[index % len(self.images)]
        start = index % (len(episode) - NUM_FRAMES)
        for data in episode[start : start + NUM_FRAMES]:
            np.asarray(Image.open(io.BytesIO(data)))
        return 0


def bound(folder, num_workers):
    return torch.utils.data.DataLoader(DecodeOnly(folder), BATCH, num_workers=num_workers)


def clips_per_second(loader, seconds):
    """After two batches, so that workers are running."""
    batches = iter(loader)
    next(batches), next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="json file for the results")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per case and round")
    parser.add_argument("--rounds", type=int, default=3, help="all cases in turn, so often; the best round counts")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sources(folder)
        cases = {}
        for workers in (0, 2):
            cases[f"bound, {workers} workers"] = lambda n=workers: bound(folder, n)
            for augmentation in ("none", "weak"):
                case = f"{augmentation}, {workers} workers"
                cases[f"original, {case}"] = lambda a=augmentation, n=workers: original(folder, a, n)
                cases[f"ours, {case}"] = lambda a=augmentation, n=workers: ours(folder, a, n)
            cases[f"ours streaming, none, {workers} workers"] = lambda n=workers: ours(
                folder, "none", n, streaming=True
            )
        rates = dict.fromkeys(cases, 0.0)
        for _ in range(args.rounds):
            for case, make in cases.items():
                rates[case] = max(rates[case], clips_per_second(make(), args.seconds))
    for case, rate in rates.items():
        print(f"{case:36} {rate:7.1f} clips/s")
    ratios = {}
    for workers in (0, 2):
        for augmentation in ("none", "weak"):
            case = f"{augmentation}, {workers} workers"
            ratios[f"ours / original, {case}"] = rates[f"ours, {case}"] / rates[f"original, {case}"]
        for kind in ("ours", "ours streaming"):
            case = f"{kind}, none, {workers} workers"
            ratios[f"{case} / bound"] = rates[case] / rates[f"bound, {workers} workers"]
    for name, ratio in ratios.items():
        print(f"{name:44} {ratio:.2f}")
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    result = {"version": __version__, "machine": machine, "clips_per_second": rates, "ratios": ratios}
    write_results(args.output, result)


if __name__ == "__main__":
    main()

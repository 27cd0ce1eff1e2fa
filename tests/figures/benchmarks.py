"""What benchmarks/README.md says."""

import math

from tests.figures.sources import DTYPES, made_by, ratio, results, row, significant


def speed():
    """The table of rollouts."""
    labels = {
        "one user, tokens only": "one user, 14 frames step by step, tokens only",
        "one user, every frame decoded": "one user, every frame decoded",
        "8 candidates, tokens only": "8 candidates, 10 frames, tokens only",
        "64 candidates, tokens only": "64 candidates, 10 frames, tokens only",
        "64 candidates, the last frame decoded": "64 candidates, only the last of 10 frames decoded",
    }
    for workload in results("rollout")["workloads"]:
        ours = [workload["ours"][dtype] for dtype in ("float32", "bfloat16")]
        cells = [cell for one in ours for cell in (significant(one["seconds"]), ratio(one["ratio"]))]
        yield row(labels[workload["workload"]], significant(workload["original_seconds"]), *cells)


def saying_when():
    """The command and the day of each file that is quoted."""
    for name in (
        *("rollout", "data", "training", "training_bfloat16", "options", "decoding", "demo", "serving", "planning"),
        *("imports", "rl", "rl_alone"),
    ):
        yield made_by(results(name))


def rollouts():
    content = results("rollout")
    passes, memory = content["seconds_per_pass_and_read"], content["cache_bytes"]
    full, half = passes["float32"], passes["bfloat16"]
    yield f"takes {full[0] * 1e3:.1f} ms in float32, {full[0] / full[1]:.2f} of the time"
    yield f"{half[0] * 1e3:.1f} ms in bf16, {half[0] / half[1]:.2f} of it"
    yield f"take {memory[0] / 2**20:.0f} MB, tiled {memory[1] / 2**20:.0f} MB"


def clips():
    content = results("data")
    rate, ratios = content["clips_per_second"], content["ratios"]
    labels = {
        "bound": "decoding with Pillow, nothing else",
        "original, none": "the original's way",
        "ours, none": "ours, with actions",
        "ours streaming, none": "ours, streamed from local Parquet",
        "original, weak": "the original's way, weak",
        "ours, weak": "ours, weak, with actions",
    }
    for name, label in labels.items():
        yield row(label, *(f"{rate[f'{name}, {workers} workers']:.0f}" for workers in (0, 2)))
    plain, weak, bound = (
        sorted(ratios[name.format(workers)] for workers in (0, 2))
        for name in (
            "ours / original, none, {} workers",
            "ours / original, weak, {} workers",
            "ours, none, {} workers / bound",
        )
    )
    yield f"ours is {plain[0]:.1f} to {plain[1]:.1f} times as fast"
    yield f"{weak[0]:.1f} to {weak[1]:.1f} times with it"
    yield f"{bound[0]:.1f} to {bound[1]:.1f} times as fast as decoding alone"
    seconds = 1 / rate["ours, weak, 0 workers"]
    yield f"{seconds * 1e3:.1f} ms, {(seconds - 1 / rate['ours, none, 0 workers']) * 1e3:.1f} are the augmentation"


def training():
    for size, digits, memory in (("default", 2, 2), ("released", 3, 1)):
        ways = results("training_bfloat16")["results"][size]["ways"]
        labels = {"original": f"{size}{chr(39) + 's' if size == 'default' else ''} sizes, the original's way"}
        for name, way in ways.items():
            times = "" if name == "original" else f" {way['times_the_original']:.2f}"
            label = labels.get(name, {"cached": "tokens cached"}.get(name, name))
            steps, gigabytes = f"{way['steps_per_second']:.{digits}f}", f"{way['peak_memory_gb']:.{memory}f} GB"
            yield f"| {label} | {steps} |{times} | {gigabytes} |"
    for size, words in (("default", "at the default's sizes"), ("released", "at released sizes")):
        ways = results("training")["results"][size]["ways"]
        fly, cached = (ways[name]["times_the_original"] for name in ("on the fly", "cached"))
        yield f"{fly:.1f} and {cached:.1f}{' times' if size == 'default' else ''} {words}"


def options():
    content = results("options")
    guesses = {(one["temperature"], one["guesses"]): one for one in content["guessing"]}
    for count in (1, 3, 7):
        ones = [guesses[temperature, count] for temperature in (1.0, 0.5)]
        cells = [(f"{one['right'] * 100:.0f} %", f"{one['times_as_fast']:.2f}") for one in ones]
        yield row(str(count), *cells[0], *cells[1])
    labels = {"float32": "float32", "bfloat16": "bf16", "int8": "int8 (torchao)", "int8 and bfloat16": "int8 and bf16"}
    for name, weights in content["weights"].items():
        same = {"float32": "", "bfloat16": " 100 %"}.get(name, f" {weights['same_tokens'] * 100:.1f} %")
        user, eight = weights["one_user_seconds_per_frame"], weights["8_candidates_seconds_per_frame"]
        yield f"| {labels[name]} | {weights['transformer_mb']:.0f} | {user:.2f} | {eight:.2f} |{same} |"
    decoding, compiled = content["vq_decoding_seconds"], content["compiled"]
    yield f"16 frames in {decoding['float32, contiguous_format']:.2f} s, channels last"
    last, half = decoding["float32, channels_last"], decoding["bfloat16, channels_last"]
    yield f"in {last:.2f} s, in bf16 in {half:.2f} s either way"
    yield (
        f"takes {compiled['compiled_seconds_per_frame']:.2f} s instead of {compiled['eager_seconds_per_frame']:.2f} s, "
        f"after {compiled['warm_up_seconds']:.0f} s of warming up"
    )


def drafts():
    content = results("drafts")
    yield made_by(content)
    for of in content["rollouts"]:
        passes, times = of["passes_per_frame"], of["times_as_fast"]
        cells = [f"{of['rows']}", f"{of['temperature']}"]
        for name in ("the frame before", "draft head"):
            cells += [f"{passes[name]:.1f}", f"{times[name]:.2f}"]
        yield row(*cells)


def decoding():
    content = results("decoding")
    for dtype, contexts in content["contexts"].items():
        for count, taken in contexts["milliseconds_per_context"].items():
            old, now = (f"{taken[name]:.0f} ms" for name in ("0.1.0", "now"))
            yield row(dtype, count, old, now, f"{contexts['times_as_fast'][count]:.2f}")
    for model in ("embedded", "released"):
        taken, times = content[model]["milliseconds_per_frame"], content[model]["times_as_fast"]
        for count in taken:
            old, now = (f"{taken[count][name]:.1f} ms" for name in ("0.1.0", "now"))
            yield row(model, count, old, now, f"{times[count]:.2f}")


def hogs():
    """Steps of many sessions beside a client that asks for much."""
    content = results("serving")
    yield f"{content['alone'][0]['sessions']} sessions is {content['p95_ratio']:.2f} times"


def playground():
    content = results("demo")
    keys, hasty = content["key_to_picture_ms"], content["key_to_picture_without_a_pause_ms"]
    yield f"to the new image {math.floor(keys['p50'] + 0.5)} ms (median of {keys['presses']})"
    yield f"{math.floor(keys['p95'] + 0.5)} ms at the 95th percentile"
    yield f"are {math.floor(hasty['p50'] + 0.5)} ms and {math.floor(hasty['p95'] + 0.5)} ms"
    yield f"A step back takes {math.floor(content['step_back_ms']['p50'] + 0.5)} ms."
    yield f"{content['held_frames_per_second']:.1f} frames a second are shown"
    yield f"share of a frame is {math.floor(content['model_ms']['frames, rewards'] + 0.5)} ms"
    yield f"{content['sessions_with_a_draw_that_fell_otherwise']} of 32 sessions drew another token than alone"
    for outputs, label in (("frames, rewards", "with images and rewards"), ("rewards", "rewards only")):
        one, eight, many = (serve for serve in content["serve"] if serve["outputs"] == outputs)
        cells = [f"{s['steps_per_second']:.1f} ({s['times_one_by_one']:.1f} x)" for s in (eight, many)]
        yield row(label, f"{one['steps_per_second']:.1f}", *cells, f"{many['p95_ms'] / 1e3:.2f} s")
    before, after = content["memory_mb_after_a_tenth_and_all_sessions"]
    yield f"memory was {before:.0f} MB after 200 sessions and {after:.0f} MB after 2000."


def replicas():
    content = results("replicas")
    yield f"Two replicas take {content['ratio']:.2f} times the steps"
    killed = content["killed_replica"]
    yield f"Of {killed['steps']} steps, {killed['wrong']} have a wrong token."
    yield f"the death after {killed['seconds_to_notice']:.1f} s"
    yield f"in its place after {killed['seconds_to_replace']:.1f} s"
    yield made_by(content)


def soak():
    content = results("soak")
    assert not content["wrong_tokens"] + content["lost_saved_states"] + list(content["unexpected_statuses"])
    counts, ends = content["counts"], [server["ended by"] for server in content["servers"]]
    yield row("clients at a time", str(content["clients"]))
    yield row("minutes", f"{content['minutes']:g}")
    yield row("answered calls", str(sum(content["calls"].values())))
    yield row("calls with a wrong token", "0")
    yield row("clients killed in the middle of a call", str(counts["clients killed"]))
    yield row("servers ended by SIGTERM, SIGKILL", f"{ends.count('SIGTERM')}, {ends.count('SIGKILL')}")
    yield row("saved states lost", "0")
    yield row("bombs, all refused", str(sum(content["bombs"].values())))
    memory = (f"{content['last_server_mb'][name]:.0f} MB" for name in ("second quarter", "last quarter"))
    yield row("memory in the second and the last quarter of that time", ", ".join(memory))
    yield made_by(content)


def planning():
    kinds = ("pixels of all frames", "pixels of the last frame", "rewards")
    plans = results("planning")["plans"]
    for plan in plans:
        candidates = f"{plan['candidates']} candidates"
        yield f"| {candidates}, the original's algorithm | {plan['original_seconds']:.0f} s |"
        for dtype, name in DTYPES.items():
            cells = [plan["ours"][dtype][kind] for kind in kinds]
            yield row(
                f"{candidates}, {name}", *(f"{cell['seconds']:.1f} s ({ratio(cell['ratio'])} x)" for cell in cells)
            )
    single, half = (plans[0]["ours"][dtype]["where the time goes"] for dtype in DTYPES)
    yield (
        f"prefilling takes {single['prefill']:.2f} s, the transformer {single['decode']:.1f} s and the VQ decoder "
        f"{single['vq']:.1f} s in float32"
    )
    yield f"In bf16, they take {half['prefill']:.2f} s, {half['decode']:.1f} s and {half['vq']:.1f} s"


def imports():
    content = results("imports")
    yield (
        f"costs {content['package beyond torch']:.2f} s beyond importing torch ({content['import torch']:.2f} s), and "
        f"`ivideogpt --help` takes {content['ivideogpt --help']:.2f} s"
    )
    loading = content['from_pretrained("default")']
    yield f'`WorldModel.from_pretrained("default")` takes {loading:.1f} s in a process of its own, with all imports'


def agents():
    """What a step of an agent takes while it learns, with the embedded world model and alone."""
    with_model, alone = results("rl"), results("rl_alone")

    def seconds(content, *parts):
        """Of 100 steps: what acting takes is counted over all steps, and updates over those that had some."""
        run = content["run"]
        taken = sum(run["parts"][part]["seconds"] for part in parts if part in run["parts"])
        if parts[0] == "imagination":  # a round in 100 steps
            return taken / max(run["rounds_of_imagination"], 1)
        return 100 * taken / run["steps" if parts[0] == "acting" else "steps_with_updates"]

    rows = {
        "acting, simulator and rendering": ("acting", "environment", "rendering"),
        "the agent's updates": ("agent updates", "drawing batches"),
        "the world model's updates": ("model updates",),
        "imagination": ("imagination",),
    }
    sums = [0.0, 0.0]
    for label, parts in rows.items():
        columns = [seconds(content, *parts) for content in (alone, with_model)]
        sums = [total + column for total, column in zip(sums, columns, strict=True)]
        yield row(label, *(f"{column:.1f}" if column else "-" for column in columns))
    yield row("together", *(f"{total:.1f}" for total in sums))
    real = [
        total - seconds(content, *rows["acting, simulator and rendering"]) + 10
        for total, content in zip(sums, (alone, with_model), strict=True)
    ]
    yield f"So the world model makes a step {sums[1] / sums[0]:.1f} times as long, and {real[1] / real[0]:.1f} times"
    imagination = with_model["imagination"]
    yield (
        f"A round of {imagination['starts']} rollouts of {imagination['horizon']} frames takes "
        f"{significant(imagination['seconds'])} s in float32. The original's way takes "
        f"{significant(imagination['original_seconds'])} s, {ratio(imagination['ratio'])} times as long."
    )


def candidates_in_the_readme():
    """The README's only figures."""
    (workload,) = (one for one in results("rollout")["workloads"] if one["workload"] == "64 candidates, tokens only")
    seconds = [significant(time) for time in (workload["ours"]["float32"]["seconds"], workload["original_seconds"])]
    yield f"64 candidates of 10 frames take {seconds[0]} seconds in place of {seconds[1]},"
    yield made_by(results("rollout"))


BENCHMARKS = (
    agents,
    saying_when,
    speed,
    rollouts,
    clips,
    training,
    options,
    drafts,
    decoding,
    playground,
    hogs,
    replicas,
    soak,
    planning,
    imports,
)

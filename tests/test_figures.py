"""Figures in the README, in docs/, in benchmarks/README.md and in configs/ are those of the files that they come from.

A sentence or a table row with figures is built here from the JSON that a command wrote, and must be in the document,
with the command and the day of the file. Sizes of an experiment are built from its yaml files. What is left without
these must hold no figure. Tables that are rendered from a file are not written here: scripts/site_pages/results.py.
"""

import json
import math
import re
import struct
from pathlib import Path

import pytest
import yaml

from ivideogpt_hf import WorldModel
from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER
from ivideogpt_hf.rl.results.comparison import compare_runs
from scripts.site_pages.results import planned_tasks, recorded_agents

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen"),
)
UNITS = (
    "%|ms|s|seconds?|minutes?|hours?|days?|MB|GB|GiB|M|million|dB|times|clips? of|clips a|updates|episodes|held-out|"
    "of the (?:[a-z]+ )?tasks"
)
# Decimal numbers, thousands, factors, shares, times and rates, also in words: "26.0", "4,800", "x 2.7", "99 %", "3 ms",
# "23 minutes", "two times". A size such as "64 x 64" is none, and nor is "0 workers".
FIGURE = re.compile(
    rf"\d+\.\d+|\d{{1,3}}(?:,\d{{3}})+|(?<!\d )\bx \d+|\b(?:\d+|{'|'.join(NUMBERS[2:])}|[a-z]+ty) (?:{UNITS})(?!\w)"
)


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def metrics(folder=DEFAULT_FOLDER):
    return json.loads((folder / "metrics.json").read_text())


def settings(file):
    """What a yaml file of an experiment sets, such as "push2d/3_vq"."""
    return yaml.safe_load((ROOT / f"configs/{file}.yaml").read_text())


def last_updates(content, part):
    """The numbers of updates of each training of a part, in their order."""
    return [curve[-1]["update"] for curve in content["curves"][part].values()]


def held_out_cross_entropy(content):
    """After the first 1,000 updates, and at the end."""
    curves = list(content["curves"]["transformer"].values())
    first, last = (
        [entry for entry in curve if "validation/cross_entropy" in entry] for curve in (curves[0], curves[-1])
    )
    assert first[0]["update"] == 1000
    return first[0]["validation/cross_entropy"], last[-1]["validation/cross_entropy"]


def made_by(content):
    """How a document says which command wrote a file, and when."""
    return f"`{content['command']}`, {content['date']}"


def row(*cells):
    return f"| {' | '.join(cells)} |"


def number_of_parameters(folder):
    """Counted in the header of the weights."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def significant(seconds):
    """Three figures, and no more than one after the point."""
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


DTYPES = {"float32": "float32", "bfloat16": "bf16"}  # as the files and as the tables write them


def ratio(value):
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


# -- docs/results/embedded_model.md -----------------------------------------------------------------------------------


def embedded_model():
    """What the page on the embedded model says in sentences. Its tables are rendered from the file."""
    content = metrics()
    evaluation = content["evaluation"]
    protocol, size = evaluation["protocol"], sum(f.stat().st_size for f in DEFAULT_FOLDER.rglob("*") if f.is_file())
    vq_size, size_of_transformer = (
        number_of_parameters(DEFAULT_FOLDER / n) / 1e6 for n in ("tokenizer", "transformer")
    )
    yield f"The VQ model has {vq_size:.1f} M parameters."
    yield f"The transformer has {size_of_transformer:.1f} M parameters."
    yield f"takes {size / 1e6:.0f} MB."
    yield f"on {sum(source['num_episodes'] for source in content['data'])} simulated episodes"
    yield f"They show {len(evaluation['rewards']['correlation_per_task'])} Meta-world tasks"
    of_trainings = last_updates(content, "transformer")
    batch = {settings(f"default/{name}")["batch_size"] for name in ("6_world_constant", "7_world")}
    assert batch == {2}
    yield f"after {sum(of_trainings):,} updates of two clips"
    num_clips = settings("default/5_tokens")["clips_per_pass"]
    yield f"In the last {of_trainings[-1]:,} of them, the learning rate fell to zero,"
    yield f"and a part of the {num_clips:,} clips"
    count = evaluation["num_samples"]
    samples = "is 1 sample" if count == 1 else f"are {count} samples"
    yield (
        f"The evaluation predicts {evaluation['num_clips']} held-out clips. Each has "
        f"{protocol['num_context_frames']} context frames and {protocol['num_future_frames']} predicted ones. "
        f"There {samples} of each clip, at temperature {protocol['temperature']}."
    )
    moving, wrong = evaluation["mean_of_moving_clips"], evaluation["wrong_over_right_actions_on_moving_clips"]
    psnr = [moving[name]["psnr"] for name in ("model", "repeat the last frame")]
    yield f"the model has {psnr[0]:.1f} dB and repeating has {psnr[1]:.1f} dB."
    by_clip, by_zero = (wrong[f"model, {actions}"] for actions in ("actions of another clip", "zero actions"))
    yield f"multiply the squared error by {by_clip:.2f}, and zero actions by {by_zero:.2f}."
    yield f"predicted rewards correlate with the true ones by {evaluation['rewards']['correlation']:.2f}."
    weak, of_tasks = weak_rewards(evaluation)
    gates = [*evaluation["gates"].values()]
    assert gates.count(False) == 1
    yield (
        f"One of its {NUMBERS[len(gates)]} goals is missed: the rewards of {NUMBERS[len(weak)]} tasks correlate by "
        f"less than 0.8. They are {', '.join(weak[:-1])} and {weak[-1]}."
    )
    yield f"A task has about {round(evaluation['num_clips'] / of_tasks)} held-out clips."
    steps = evaluation["per_step"]
    for metric, sign in (("psnr", 1), ("lpips", -1)):
        pairs = zip(steps["model"][metric], steps["repeat the last frame"][metric], strict=True)
        assert all(sign * model > sign * repeat for model, repeat in pairs)
    yield "The model beats repeating the last frame in every step, in PSNR and in LPIPS."
    yield made_by(evaluation)


def weak_rewards(evaluation):
    """The tasks whose rewards miss their gate, and the number of all tasks."""
    correlation = evaluation["rewards"]["correlation_per_task"]
    return sorted(task.replace(" ", "-") for task, value in correlation.items() if value < 0.8), len(correlation)


def further():
    """What the page says of more frames than the model was trained for."""
    table = results("embedded_40_frames")
    model, repeat = (table["per_step"][name]["psnr"] for name in ("model", "repeat the last frame"))
    yield f"On {table['num_clips']} held-out clips,"
    yield f"{model[9]:.1f} dB at frame 10, {model[19]:.1f} dB at frame 20 and {model[39]:.1f} dB at frame 40."
    yield f"Repeating the last frame has {repeat[39]:.1f} dB at frame 40."
    yield made_by(table)


def other_pictures():
    """What the page says of episodes that others rendered."""
    table = results("embedded_other_pictures")
    model, repeat = (table["mean"][name] for name in ("model", "repeat the last frame"))
    yield f"{table['num_clips']} clips of them"
    yield f"the model has {model['psnr']:.1f} dB and repeating has {repeat['psnr']:.1f} dB."
    yield f"LPIPS is {model['lpips']:.3f} and {repeat['lpips']:.3f}."
    steps = zip(*(table["per_step"][name]["psnr"] for name in ("model", "repeat the last frame")), strict=True)
    behind = [model < repeat for model, repeat in steps]
    count = behind.index(False)
    assert not any(behind[count:])
    yield f"In the first {NUMBERS[count]} steps, repeating has the higher PSNR."
    yield f"clips by {table['wrong_over_right_actions_on_moving_clips']['model, actions of another clip']:.2f}."
    yield made_by(table)


def plans():
    """What the page says of planning. Its table is rendered from the files."""
    tables = planned_tasks()
    rates = {table["task"].partition("/")[2]: table["controllers"] for table in tables}
    for task, of in rates.items():
        yield f"{task} {of['model']['success_rate'] / of['simulator']['success_rate']:.2f}"
    above = tasks_that_work()
    yield f"In {', '.join(above[:-1])} and {above[-1]}, the model's interval lies above"
    for task, words in (
        ("reach", "In reach, the model earns {:.2f} times"),
        ("button-press", "in button-press {:.2f} times"),
    ):
        of = rates[task]
        yield words.format(of["model"]["mean_reward"] / of["random"]["mean_reward"])
    reach, drawer = rates["reach"], rates["drawer-close"]
    assert reach["model"]["mean_reward"] > reach["simulator"]["mean_reward"]
    yield "In reach, its sum of rewards is above the simulator's."
    yield (
        f"Solved instances end early, after {reach['simulator']['mean_num_steps']:.1f} actions on average with the "
        f"simulator and after {reach['model']['mean_num_steps']:.1f} with the model."
    )
    assert drawer["simulator"]["mean_reward"] > drawer["model"]["mean_reward"]
    assert drawer["simulator"]["success_rate"] < drawer["model"]["success_rate"]
    yield "In drawer-close, planning in the simulator earns more reward and closes fewer drawers in time."
    seconds = [1 / of["model"]["plans_per_second"] for of in rates.values()]
    yield f"{min(seconds):.1f} to {max(seconds):.1f} seconds"
    yield from {f"the same {table['num_instances']} instances": None for table in tables}
    yield from {made_by(table): None for table in tables}


def fine_tuned_model():
    """What the page says of the embedded model on a new task."""
    table = results("finetune")
    before, after = table["before"], table["after"]
    yield f"{sum(source['num_episodes'] for source in table['data'])} episodes"
    yield f"{table['num_updates']} updates of {table['batch_size']} clips"
    psnr = [table["PSNR (dB)"] for table in (before, after)]
    repeated = before["PSNR of repeating the last frame (dB)"]
    yield (
        f"On {table['num_clips']} held-out clips, PSNR goes from {psnr[0]:.1f} dB to {psnr[1]:.1f} dB. "
        f"Repeating the last frame has {repeated:.1f} dB."
    )
    yield f"The error of rewards goes from {before['reward error']:.1f} to {after['reward error']:.1f},"
    yield f"correlation goes from {before['reward correlation']:.2f} to {after['reward correlation']:.2f}."
    yield made_by(table)


# -- docs/results/agents.md -------------------------------------------------------------------------------------------


def agents_in_plate_slide():
    """What the page says of plate-slide in sentences. Its table is rendered from the file."""
    groups = {group["name"]: group for group in compare_runs(recorded_agents("plate_slide"))["groups"]}
    clone = groups["cloning 5 demonstrations"]
    model = groups["with the embedded world model, 5 demonstrations"]
    alone, often = (groups[f"DrQ-v2, 5 demonstrations{more}"] for more in ("", ", 3 updates"))
    agents = (model, alone, often)
    assert all(agent["steps_to_50"] is not None for agent in agents)
    steps = [f"{round(agent['steps_to_50'], -2):,.0f}" for agent in agents]
    areas = [f"{area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]" for area in (a["area"] for a in agents)]
    minutes = [f"{agent['seconds'] / 60:.0f}" for agent in agents]
    yield f"reaches 50 % after {steps[0]} real steps with the world model, and after {steps[1]} without it."
    apart = "do not overlap" if model["area"]["low"] > alone["area"]["high"] else "overlap"
    yield f"The areas under the curves are {areas[0]} and {areas[1]}; their intervals {apart}."
    below = [
        sum(run.success_at_end < 0.5 for run in recorded_agents("plate_slide") if run.folder.name in agent["folders"])
        for agent in agents
    ]
    assert below[0] == 0
    yield (
        f"{NUMBERS[below[1]]} of {NUMBERS[len(alone['seeds'])]} ends below that with one update, and "
        f"{NUMBERS[below[2]]} of {NUMBERS[len(often['seeds'])]} with three."
    )
    assert model["area"]["low"] <= often["area"]["high"], "imagination adds to what the updates bring: say so"
    yield f"curve of DrQ-v2 alone reaches 50 % after {steps[2]} real steps, and the area is {areas[2]}."
    yield f"Cloning the five demonstrations alone succeeds in {clone['success_at_end']['value']:.2f}."
    yield f"{minutes[0]} minutes with the world model, {minutes[1]} without it, and {minutes[2]} with three updates,"
    yield made_by(results("agents_plate_slide"))


def agents_in_button_press():
    """What the page says of button-press in sentences."""
    groups = {group["name"]: group for group in compare_runs(recorded_agents("button_press"))["groups"]}
    clone = groups["cloning 5 demonstrations"]
    model = groups["with the embedded world model, 5 demonstrations"]
    alone, often = (groups[f"DrQ-v2, 5 demonstrations{more}"] for more in ("", ", 3 updates"))
    agents = (model, alone, often)
    steps = [f"{round(agent['steps_to_80'], -2):,.0f}" for agent in agents]
    areas = [f"{area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]" for area in (a["area"] for a in agents)]
    ends = [f"{agent['success_at_end']['value']:.2f}" for agent in agents]
    minutes = [f"{agent['seconds'] / 60:.0f}" for agent in agents]
    yield f"reaches 80 % after {steps[0]} real steps with the world model, and after {steps[1]} without it."
    apart = "do not overlap" if model["area"]["low"] > alone["area"]["high"] else "overlap"
    yield f"The areas under the curves are {areas[0]} and {areas[1]}; their intervals {apart}."
    yield f"At the end, success is {ends[0]} and {ends[1]}."
    low, high = often["success_at_end"]["low"], often["success_at_end"]["high"]
    yield f"of DrQ-v2 alone reaches 80 % after {steps[2]} real steps."
    yield f"The area is {areas[2]}, and success at the end is {ends[2]} [{low:.2f}, {high:.2f}]."
    ends_of = {run.folder.name: run.success_at_end for run in recorded_agents("button_press")}
    worst = [min(ends_of[folder] for folder in agent["folders"]) for agent in agents]
    yield f"the worst seed succeeds in {worst[0]:.2f} at the end, in place of {worst[2]:.2f}."
    assert model["area"]["low"] <= often["area"]["high"], "imagination adds to what the updates bring: say so"
    yield f"Cloning the five demonstrations alone succeeds in {clone['success_at_end']['value']:.2f}."
    yield f"{minutes[0]} minutes with the world model, {minutes[1]} without it, and {minutes[2]} with three updates,"
    yield made_by(results("agents_button_press"))


# -- configs/ ---------------------------------------------------------------------------------------------------------


def recipes():
    """The table of what a training takes."""
    rate = results("training_bfloat16")["results"]["default"]["ways"]["cached"]["steps_per_second"]
    for name, label, evaluation in (
        ("push2d", "push2d, small images", results("push2d_evaluation")),
        ("default", f"default, {len(metrics()['evaluation']['rewards']['correlation_per_task'])} tasks", None),
    ):
        content = metrics(DEFAULT_FOLDER.parent / name)
        evaluation = evaluation or content["evaluation"]
        vq_updates, updates = (sum(last_updates(content, part)) for part in ("vq_model", "transformer"))
        cells = [f"{evaluation['mean'][of]['psnr']:.1f} dB" for of in ("model", "repeat the last frame")]
        cells.append("not timed" if name == "push2d" else f"{updates / rate / 3600:.1f} for the transformer")
        yield f"{made_by(evaluation)}, measured {name}."
        vq_batch, batch = (settings(f"{name}/{file}")["batch_size"] for file in FILES_OF_TRAININGS[name])
        of_clips = (
            f"{vq_updates:,} updates of {vq_batch} clips" if name == "push2d" else f"{vq_updates:,} of {vq_batch}"
        )
        first, last = held_out_cross_entropy(content)
        episodes = sum(run["num_episodes"] for run in collected(name))
        yield row(label, f"{episodes:,}", of_clips, f"{updates:,} of {batch}", f"{first:.2f}, {last:.2f}", *cells)
    sizes = [WorldModel.from_pretrained(name).transformer.config.vocab_size for name in ("push2d", "default")]
    yield f"{math.log(sizes[0]):.1f} for push2d and {math.log(sizes[1]):.1f} for default"


# The yaml files of the VQ model and of the transformer.
FILES_OF_TRAININGS = {"push2d": ("3_vq", "5_world"), "default": ("4_vq", "7_world")}


def collected(name):
    """The runs of an experiment's first file, with what they take over from others."""
    return settings(f"{name}/1_collect")


def default_experiment():
    content = metrics()
    constant, *others = last_updates(content, "transformer")
    of_stage = settings("default/6_world_constant")["num_updates"]
    yield f"has seen {constant:,} of the {of_stage:,} updates of its first stage"
    yield f"Then it had {others[0]:,} and {others[1]:,} updates"
    clips = settings("default/5_tokens")["clips_per_pass"]
    yield f"on a part of the {clips:,} clips"
    yield f"tokens of {clips:,} clips"
    runs = collected("default")
    tasks = {run["environment"] for run in runs}
    (length,) = {run["num_frames"] for run in runs}
    yield f"{sum(run['num_episodes'] for run in runs):,} episodes of {length} frames of {len(tasks)} tasks"
    yield f"the measures of {content['evaluation']['num_clips']} held-out clips"
    (updates,) = re.findall(r"--num-updates (\d+)", (ROOT / "configs/default/ablations.sh").read_text())
    yield f"for its first {int(updates):,} updates"
    weak, of_tasks = weak_rewards(content["evaluation"])
    yield (
        f"The rewards of {NUMBERS[len(weak)]} of the {NUMBERS[of_tasks]} tasks correlate with the true ones by less "
        f"than 0.8."
    )
    yield f"planning in {NUMBERS[len(settings('default/9_plan'))]} of the tasks"
    yield f"Planning works in {NUMBERS[len(tasks_that_work())]} of the {NUMBERS[len(planned_tasks())]} tasks."


def tasks_that_work():
    """The tasks in which the model's interval lies above those of all controllers that do not plan."""
    others = ("random", "zero", "shuffled")
    rates = {table["task"].partition("/")[2]: table["controllers"] for table in planned_tasks()}
    return [task for task, of in rates.items() if of["model"]["low"] > max(of[name]["high"] for name in others)]


def push2d_experiment():
    """Its sizes."""
    folder = DEFAULT_FOLDER.parent / "push2d"
    *before, last = last_updates(metrics(folder), "transformer")
    yield f"had {sum(before) + last:,} updates: the {last:,} of `5_world.yaml`, after {before[0]:,} and {before[1]:,}"
    yield sizes_of_data("push2d")
    vq, world = (settings(f"push2d/{file}") for file in FILES_OF_TRAININGS["push2d"])
    yield f"{vq['num_updates']:,} updates of {vq['batch_size']} clips"
    yield f"{number_of_parameters(folder / 'transformer') / 1e6:.1f} million parameters"
    yield f"{world['num_updates']:,} updates of {world['batch_size']} clips"


def push2d_measured():
    """How well the embedded model predicts, and how well one plans in it."""
    evaluation, plan = results("push2d_evaluation"), results("push2d_plan")
    yield f"{made_by(evaluation)}, and {made_by(plan)}"
    psnr = (evaluation["mean"][of]["psnr"] for of in ("model", "repeat the last frame", "VQ reconstruction (ceiling)"))
    wrong = evaluation["wrong_over_right_actions_on_moving_clips"]["model, actions of another clip"]
    assert all(evaluation["gates"].values())
    yield row(*(f"{value:.1f} dB" for value in psnr), f"x {wrong:.1f}", "kept")
    of = plan["controllers"]
    rates = {
        name: f"{one['success_rate']:.2f} ({one['low']:.2f}–{one['high']:.2f})"  # noqa: RUF001
        for name, one in of.items()
    }
    model = rates["model"].replace(" (", "** (")
    task = f"goal image, {plan['num_instances']} instances of {plan['num_steps']} actions"
    yield row(task, rates["random"], rates["zero"], rates["shuffled"], f"**{model}", rates["simulator"])
    yield f"A plan took {1 / of['model']['plans_per_second']:.1f} seconds in bf16"
    ratio = of["simulator"]["plans_per_second"] / of["model"]["plans_per_second"]
    yield f"The simulator plans {ratio:.0f} times as fast."
    simulator, difference = (
        f"{of['simulator']['success_rate'] - less:.2f}" for less in (0, of["model"]["success_rate"])
    )
    yield f"The simulator with the same planner succeeds in {simulator}. The difference of {difference} is the model's."
    steps = evaluation["per_step"]["model"]["psnr"]
    yield f"PSNR falls from {steps[0]:.1f} dB at the first step to {steps[-1]:.1f} dB at the tenth"


def sizes_of_data(name, of="of"):
    runs = collected(name)
    (length,) = {run["num_frames"] for run in runs}
    return f"{sum(run['num_episodes'] for run in runs):,} episodes {of} {length} frames"


def pusht_experiment():
    yield sizes_of_data("pusht", of="of up to")
    vq, world = (settings(f"pusht/{file}") for file in ("3_vq", "5_world"))
    yield f"{vq['num_updates']:,} updates of {vq['batch_size']} clips"
    clips = settings("pusht/4_tokens")["clips_per_pass"]
    yield f"{world['num_updates']:,} updates of {world['batch_size']} clips out of {clips:,}."
    yield f"The files now make {clips:,} clips"


def robodesk_experiment():
    yield sizes_of_data("robodesk")
    vq, world = (settings(f"robodesk/{file}") for file in ("3_vq", "5_world"))
    yield f"{vq['num_updates']:,} more updates of {NUMBERS[vq['batch_size']]} clips"
    yield f"{world['num_updates']:,} updates of {NUMBERS[world['batch_size']]} clips"


def unseen_tasks_experiment():
    first, second, world = (settings(f"unseen_tasks/{n}")["num_updates"] for n in ("3_vq_l1", "4_vq", "6_world"))
    yield f"has {first:,} and {second:,} updates in its two stages"
    yield f"has {world:,} updates in one stage"
    content = results("unseen_tasks_evaluation")
    yield made_by(content)
    tasks = content["rewards"]["correlation_per_task"]
    yield f"{content['num_clips']} held-out clips of the {NUMBERS[len(tasks)]} tasks"
    means = [content["mean"][of] for of in ("model", "repeat the last frame")]
    wrong = content["wrong_over_right_actions_on_moving_clips"]["model, actions of another clip"]
    yield row(
        *(f"{mean['psnr']:.1f} dB" for mean in means),
        *(f"{mean['lpips']:.3f}" for mean in means),
        f"x {wrong:.2f}",
        f"{content['rewards']['correlation']:.2f}",
    )
    weak = sorted(task.replace(" ", "-") for task, correlation in tasks.items() if correlation < 0.8)
    yield f"rewards of {NUMBERS[len(weak)]} of the {NUMBERS[len(tasks)]} tasks correlate"
    yield f"by less than 0.8: {' and '.join(weak)}. A task has {NUMBERS[content['num_clips'] // len(tasks)]} clips."


# -- benchmarks/README.md ---------------------------------------------------------------------------------------------


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


# -- both -------------------------------------------------------------------------------------------------------------


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
# Numbers that are no result: they say what was done.
SETTINGS = (
    "temperature 1: right",
    "of 95 %",
    "The JSON calls it 0.1.0,",
    "the last 6 minutes",
    "four updates of the world model",
    "temperature 0.5: right",
    "the 138 M transformer",
    "by 600 updates of 2 clips",
    "Training clips of 16 frames",
    "clips of 16 frames",
    "correlate by less than 0.8.",
    "Each server had at most 4 GiB of states.",
    "is updated three times per step",
    "takes ten steps a second",
    "Weights are averaged over the last thousand updates",
)


# Pages without figures, and numbers in them that are no results.
OTHER_PAGES = [
    ROOT / "README.md",
    *(file for file in sorted((ROOT / "docs").rglob("*.md")) if file.name not in ("embedded_model.md", "agents.md")),
]
NO_RESULTS = (
    "138 million parameters",
    "114 million",
    "in ten minutes",
    "4 GiB",
    "every five seconds",
    "in five seconds",
    "within 60 seconds",
    "2,000 random steps",
    "(436 M transformer)",
    "1,000 updates of 16 clips at step 2,000",
    "100 updates of 4 clips at step 500",
    "500 updates by default",
    "Apache-2.0",
    "of 95 %",
    "two updates a step",
    "Before 1.0",
    "LeRobot v3.0",
    "Python 3.11, 3.12 and 3.13",
    "Python 3.11",
    "section 4.3",
    "temperature 0.5",
    "transformers 5.23",
    "transformers 5.24",
)


def words_of(text):
    """The text in one line: where lines break does not count."""
    return " ".join(text.split())


def section(document, heading):
    """The text below a heading, up to the next one of its kind, without code; heading None: the whole document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if heading is not None:
        text = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE).group(1)
    return words_of(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("document", "heading", "sources"),
    [
        ("docs/results/embedded_model.md", None, (embedded_model, further, other_pictures, plans, fine_tuned_model)),
        ("docs/results/agents.md", None, (agents_in_plate_slide, agents_in_button_press)),
        ("benchmarks/README.md", "Results", BENCHMARKS),
    ],
    ids=["embedded model", "agents", "benchmarks"],
)
def test_a_page_holds_the_figures_of_its_json_and_no_other(document, heading, sources):
    text = section(document, heading)
    for words in (words for source in sources for words in source()):
        assert words in text
        text = text.replace(words, "")
    for words in SETTINGS:
        text = text.replace(words, "")
    assert not FIGURE.findall(text), text


EXPERIMENTS = sorted((ROOT / "configs").rglob("README.md"))
OF_EXPERIMENTS = {
    "configs": (recipes,),
    "default": (default_experiment,),
    "push2d": (push2d_experiment, push2d_measured),
    "pusht": (pusht_experiment,),
    "robodesk": (robodesk_experiment,),
    "unseen_tasks": (unseen_tasks_experiment,),
}
# What was decided and not measured: gates, sizes of released models, settings of agents, protocols of the paper.
DECIDED = (
    "after 1,000 updates, and at the end",
    "the squared error by at least 1.3.",
    "with the true ones by at least 0.8.",
    "of 95 %",
    "(95 % interval)",
    "The VQ model (114 million parameters)",
    "(114 million parameters)",
    "(138 million)",
    "three updates a step",
    "10 or 20 episodes",
    "updated three times per step",
)


@pytest.mark.parametrize("document", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_an_experiment_holds_the_figures_of_its_files_and_no_other(document):
    name = document.parent.name
    text = section(document, None)
    for words in (words for source in OF_EXPERIMENTS.get(name, ()) for words in source()):
        assert words in text
        text = text.replace(words, "")
    for words in DECIDED:
        text = text.replace(words, "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    assert not FIGURE.findall(text), text


def candidates_in_the_readme():
    """The README's only figures."""
    (workload,) = (one for one in results("rollout")["workloads"] if one["workload"] == "64 candidates, tokens only")
    seconds = [significant(time) for time in (workload["ours"]["float32"]["seconds"], workload["original_seconds"])]
    yield f"64 candidates of 10 frames take {seconds[0]} seconds in place of {seconds[1]},"
    yield made_by(results("rollout"))


@pytest.mark.parametrize("words", [*candidates_in_the_readme()])
def test_the_readme_quotes_how_fast_candidates_are(words):
    assert words in section("README.md", "Checkpoints it reads")


def test_the_readme_says_in_how_many_tasks_planning_works():
    text = words_of((ROOT / "README.md").read_text(encoding="utf-8"))
    assert f"Planning works in push2d and in {NUMBERS[len(tasks_that_work())]} Meta-world tasks" in text


@pytest.mark.parametrize(
    "words",
    [
        "29.3 dB",
        "4,800 updates",
        "x 2.7",
        "99 %",
        "23 minutes",
        "two to three times",
        "fifteen held-out",
        "0.7 seconds",
    ],
)
def test_a_figure_is_seen(words):
    assert FIGURE.search(words)


@pytest.mark.parametrize("words", ["64 x 64 pixels", "16 x 16 tokens", "0 workers", "two CPU cores"])
def test_a_size_is_no_figure(words):
    assert not FIGURE.search(words)


@pytest.mark.parametrize("document", OTHER_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_page_holds_figures(document):
    """Success rates, for example, are no part of what a command left in this repository: the experiments' READMEs hold
    them."""
    text = section(document, None)
    versions = section("docs/install.md", "Tested versions")
    for words in (*NO_RESULTS, *candidates_in_the_readme(), versions):
        text = text.replace(words, "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    assert not FIGURE.findall(text), text


@pytest.mark.parametrize("file", sorted(RESULTS.glob("agents_*.json")), ids=lambda file: file.stem)
def test_agents_that_are_written_down_had_the_settings_of_the_experiment(file):
    """As they are now: a default that changed would say something else than what was run."""
    run_settings = pytest.importorskip("ivideogpt_hf.rl.runs.settings")
    content = json.loads(file.read_text(encoding="utf-8"))
    experiment = yaml.safe_load((ROOT / content["command"].split()[-1]).read_text(encoding="utf-8"))
    for entry in experiment:
        run = content["runs"].get(Path(entry["output"]).name)
        if run is not None:
            now = run_settings.AgentRunSettings(**entry).record()
            then = {name: value for name, value in run["settings"].items() if name != "world_model_hashes"}
            assert [item for item in now.items() if item[1] is not None and item not in then.items()] == []
            assert [item for item in then.items() if item[1] is not None and item not in now.items()] == []


RESULT = re.compile(r"\d+\.\d+ (?:dB|\(\d)")  # "26.8 dB", "0.50 (0.33"
MADE_BY = re.compile(r"`[^`]*(?:run\.sh|ivideogpt [^`]*)`, \d{4}-\d\d-\d\d")


def test_there_are_results_of_experiments():
    """Else an error in the pattern above would leave everything out."""
    assert any(RESULT.search(file.read_text(encoding="utf-8")) for file in EXPERIMENTS)


@pytest.mark.parametrize("document", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_an_experiment_says_which_command_measured_it_and_when(document):
    text = words_of(document.read_text(encoding="utf-8"))
    assert MADE_BY.search(text) or not RESULT.search(text)

"""What the READMEs of configs/ say of their experiments' sizes and results."""

import math
import re

from ivideogpt_hf import WorldModel
from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER
from tests.figures.embedded_model import weak_rewards
from tests.figures.sources import (
    NUMBERS,
    ROOT,
    collected,
    held_out_cross_entropy,
    last_updates,
    made_by,
    metrics,
    number_of_parameters,
    results,
    row,
    settings,
)

# The yaml files of the VQ model and of the transformer.
FILES_OF_TRAININGS = {"push2d": ("3_vq", "5_world"), "default": ("4_vq", "7_world")}


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


def default_experiment():
    content = metrics()
    constant, *falling, with_visits, last = last_updates(content, "transformer")
    yield f"{constant:,} updates of the first stage, and {falling[0]:,} and {falling[1]:,} in the manner of the second."
    yield f"Then it had {with_visits:,} more of the first stage with a part of the visits, and {last:,} of the second"
    clips = settings("default/5_tokens")["clips_per_pass"]
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


def with_interval(rate):
    return f"{rate['success_rate']:.2f} ({rate['low']:.2f}–{rate['high']:.2f})"  # noqa: RUF001


def seeds(name):
    """Rows of what came out with several training seeds."""
    content = results(f"{name}_seeds")
    for seed, of in content["seeds"].items():
        cells = [seed.removeprefix("seed_")]
        if "evaluation" in of:
            evaluation = of["evaluation"]
            wrong = evaluation["wrong_over_right_actions_on_moving_clips"]["model, actions of another clip"]
            cells += [f"{evaluation['mean']['model']['psnr']:.1f} dB", f"x {wrong:.1f}"]
        yield row(*cells, *(with_interval(rate) for rate in of["controllers"].values()))
    yield made_by(content)


def push2d_measured():
    """How well the embedded model predicts, and how well one plans in it."""
    evaluation, plan = results("push2d_evaluation"), results("push2d_plan")
    yield f"{made_by(evaluation)}, and {made_by(plan)}"
    psnr = (evaluation["mean"][of]["psnr"] for of in ("model", "repeat the last frame", "VQ reconstruction (ceiling)"))
    wrong = evaluation["wrong_over_right_actions_on_moving_clips"]["model, actions of another clip"]
    assert all(evaluation["gates"].values())
    yield row(*(f"{value:.1f} dB" for value in psnr), f"x {wrong:.1f}", "kept")
    of = plan["controllers"]
    rates = {name: with_interval(one) for name, one in of.items()}
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


def handle_press_experiment():
    yield sizes_of_data("handle_press")
    world = settings("handle_press/4_world")
    yield f"{world['num_updates']:,} updates of {NUMBERS[world['batch_size']]} clips"


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


# By the folder of the experiment.
EXPERIMENTS = {
    "configs": (recipes,),
    "default": (default_experiment,),
    "push2d": (push2d_experiment, push2d_measured, lambda: seeds("push2d")),
    "handle_press": (handle_press_experiment,),
    "pusht": (pusht_experiment,),
    "robodesk": (robodesk_experiment,),
    "unseen_tasks": (unseen_tasks_experiment,),
}

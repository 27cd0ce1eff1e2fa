"""What docs/results/embedded_model.md says. Its tables are rendered from the files, and are not written here."""

from ivideogpt_hf.checkpoints.layout import DEFAULT_FOLDER
from scripts.site_pages.results import planned_tasks
from tests.figures.sources import NUMBERS, last_updates, made_by, metrics, number_of_parameters, results, settings


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
    yield f"at last on {sum(source['num_episodes'] for source in content['data'])} simulated episodes"
    yield f"They show {len(evaluation['rewards']['correlation_per_task'])} Meta-world tasks"
    of_trainings = last_updates(content, "transformer")
    batch = {settings(f"default/{name}")["batch_size"] for name in ("6_world_constant", "7_world")}
    assert batch == {2}
    num_clips = settings("default/5_tokens")["clips_per_pass"]
    yield f"had {sum(of_trainings):,} updates of two clips."
    yield f"In the last {sum(of_trainings[-2:]):,} of them, visits took part."
    yield f"In the last {of_trainings[-1]:,}, the learning rate fell to zero, and the clips were {num_clips:,}"
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
        f"It misses one of the {NUMBERS[len(gates)]} [gates](../guides/evaluation.md#gates): "
        f"the rewards of {NUMBERS[len(weak)]} tasks correlate by "
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
    assert tasks_that_work() == [*rates]
    yield f"In all {NUMBERS[len(rates)]} tasks, the model's interval lies above"
    reach, button, drawer = (rates[task] for task in ("reach", "button-press", "drawer-close"))
    for of, words in ((reach, "In reach, the model earns {:.2f} times"), (button, "in button-press {:.2f} times")):
        yield words.format(of["model"]["mean_reward"] / of["random"]["mean_reward"])
        assert of["model"]["mean_reward"] > of["simulator"]["mean_reward"]
    yield (
        f"Solved instances end early: in reach, after {reach['simulator']['mean_num_steps']:.1f} actions on average "
        f"with the simulator and after {reach['model']['mean_num_steps']:.1f} with the model."
    )
    assert drawer["simulator"]["mean_reward"] > drawer["model"]["mean_reward"]
    assert drawer["simulator"]["success_rate"] <= drawer["model"]["success_rate"]
    yield "In drawer-close, planning in the simulator earns more reward, and does not close more drawers in time."
    seconds = [1 / of["model"]["plans_per_second"] for of in rates.values()]
    yield f"{min(seconds):.1f} to {max(seconds):.1f} seconds"
    yield from {f"the same {table['num_instances']} instances": None for table in tables}
    yield from {made_by(table): None for table in tables}


def tasks_that_work():
    """The tasks in which the model's interval lies above those of all controllers that do not plan."""
    others = ("random", "zero", "shuffled")
    rates = {table["task"].partition("/")[2]: table["controllers"] for table in planned_tasks()}
    return [task for task, of in rates.items() if of["model"]["low"] > max(of[name]["high"] for name in others)]


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


EMBEDDED_MODEL = (embedded_model, further, other_pictures, plans, fine_tuned_model)

"""What docs/results/agents.md says. Its tables are rendered from the files, and are not written here."""

from ivideogpt_hf.rl.results.comparison import compare_runs
from scripts.site_pages.results import recorded_agents
from tests.figures.sources import NUMBERS, made_by, results


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


AGENTS = (agents_in_plate_slide, agents_in_button_press)

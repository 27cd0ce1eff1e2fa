"""What docs/results/agents.md says. Its tables are rendered from the files, and are not written here."""

from ivideogpt_hf.rl.results.comparison import compare_runs
from scripts.site_pages.results import recorded_agents
from tests.figures.sources import NUMBERS, made_by, results

DEMONSTRATIONS = ", 5 demonstrations"


def compared(task):
    """The groups of a task's runs, by name."""
    return {group["name"]: group for group in compare_runs(recorded_agents(task))["groups"]}


def groups_of(task, demonstrations):
    """The agent with the embedded world model, it alone, and it alone with as many updates."""
    names = (f"with the embedded world model{demonstrations}", f"DrQ-v2{demonstrations}")
    return [compared(task)[name] for name in (*names, f"DrQ-v2{demonstrations}, 3 updates")]


def steps_to(share, group):
    return f"{round(group[f'steps_to_{share}'], -2):,.0f}"


def area_of(group):
    area = group["area"]
    return f"{area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]"


def end_of(group):
    end = group["success_at_end"]
    return f"{end['value']:.2f} [{end['low']:.2f}, {end['high']:.2f}]"


def agents_in(task, share, demonstrations=DEMONSTRATIONS):
    """What the page says of every task; ``share`` is the success in percent whose real steps it tells."""
    model, alone, often = groups_of(task, demonstrations)
    without = "never" if alone[f"steps_to_{share}"] is None else f"after {steps_to(share, alone)}"
    yield (
        f"reaches {share} % after {steps_to(share, model)} real steps with the world model, and {without} without it."
    )
    apart = "do not overlap" if model["area"]["low"] > alone["area"]["high"] else "overlap"
    yield f"The areas under the curves are {area_of(model)} and {area_of(alone)}; their intervals {apart}."
    assert model["area"]["low"] <= often["area"]["high"], "imagination adds to what the updates bring: say so"
    yield f"curve of DrQ-v2 alone reaches {share} % after {steps_to(share, often)} real steps"
    minutes = [f"{group['seconds'] / 60:.0f}" for group in (model, alone, often)]
    yield f"{minutes[0]} minutes with the world model, {minutes[1]} without it, and {minutes[2]} with three updates,"
    if demonstrations:
        clone = compared(task)["cloning 5 demonstrations"]
        yield f"Cloning the five demonstrations alone succeeds in {clone['success_at_end']['value']:.2f}."


def ends_of_runs(task, group):
    """The success at the end of each of a group's runs."""
    return [run.success_at_end for run in recorded_agents(task) if run.folder.name in group["folders"]]


def agents_in_plate_slide():
    yield from agents_in("plate_slide", 50)
    yield made_by(results("agents_plate_slide"))
    agents = groups_of("plate_slide", DEMONSTRATIONS)
    yield f"and the area is {area_of(agents[-1])}."
    below = [sum(end < 0.5 for end in ends_of_runs("plate_slide", agent)) for agent in agents]
    seeds = [NUMBERS[len(agent["seeds"])] for agent in agents]
    assert below[0] == 0
    yield (
        f"{NUMBERS[below[1]]} of {seeds[1]} ends below that with one update, and {NUMBERS[below[2]]} of {seeds[2]} "
        f"with three."
    )


def agents_in_button_press():
    yield from agents_in("button_press", 80)
    yield made_by(results("agents_button_press"))
    agents = groups_of("button_press", DEMONSTRATIONS)
    ends = [agent["success_at_end"] for agent in agents]
    yield f"At the end, success is {ends[0]['value']:.2f} and {ends[1]['value']:.2f}."
    yield f"The area is {area_of(agents[-1])}, and success at the end is {end_of(agents[-1])}."
    worst = [min(ends_of_runs("button_press", agent)) for agent in agents]
    yield f"the worst seed succeeds in {worst[0]:.2f} at the end, in place of {worst[2]:.2f}."


def agents_without_demonstrations():
    yield from agents_in("button_press", 50, "")
    model, alone, often = groups_of("button_press", "")
    of_model, of_alone, of_often = (end_of(group) for group in (model, alone, often))
    yield f"At the end, success is {of_model} and {of_alone}."
    ends = ends_of_runs("button_press", alone)
    never, seeds = NUMBERS[ends.count(0)].capitalize(), NUMBERS[len(ends)]
    yield f"{never} of the {seeds} seeds of DrQ-v2 alone never press the button"
    assert ends.count(1) == 1
    yield f"The area is {area_of(often)}, and success at the end is {of_often}."


AGENTS = (agents_in_plate_slide, agents_in_button_press, agents_without_demonstrations)

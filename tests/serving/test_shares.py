"""Turns are fair to clients, whoever comes and goes."""

from ivideogpt_hf.serving.shares import FairShares


def turns(shares, costs, num_turns):
    """Who gets so many turns, where all clients always wait."""
    taken = []
    for _ in range(num_turns):
        client = min(costs, key=shares.given)
        taken.append(client)
        shares.charge([(client, costs[client])], len(costs))
    return taken


def test_all_are_given_the_same_number_of_frames():
    costs = {"hog": 20, "small": 2, "smaller": 1}
    taken = turns(FairShares(), costs, 310)
    frames = [taken.count(client) * cost for client, cost in costs.items()]
    assert max(frames) - min(frames) < 2 * 20


def test_whoever_was_quiet_has_saved_nothing_up():
    shares = FairShares()
    turns(shares, {"a": 5, "b": 5}, 100)
    assert turns(shares, {"a": 5, "b": 5, "late": 5}, 9).count("late") == 3


def test_a_client_is_served_though_new_ones_keep_coming():
    shares = FairShares()
    shares.charge([("patient", 20)], 2)
    for number in range(100):
        new = f"new {number}"
        if min(("patient", new), key=shares.given) == "patient":
            return
        shares.charge([(new, 1)], 2)
    raise AssertionError("it waits for ever")


def test_clients_that_are_gone_are_forgotten():
    shares = FairShares()
    for number in range(1000):
        shares.charge([(f"client {number}", 3)], 2)
    assert len(shares) < 10

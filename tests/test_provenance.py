"""What is noted of how a result was made."""

import sys

import pytest

from ivideogpt_hf.provenance import describe_command


@pytest.mark.parametrize("words", [["--token", "hf_secret"], ["--token=hf_secret"], ["--tok", "hf_secret"]])
def test_a_token_is_in_no_record(words, monkeypatch):
    """Records are published with what they describe."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ivideogpt", "rl", "push2d", *words, "--seed", "1"])
    command = describe_command()
    assert "hf_secret" not in command
    assert command.startswith("ivideogpt rl push2d --tok")
    assert command.endswith("HIDDEN --seed 1")


def test_the_rest_of_a_command_is_kept(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ivideogpt", "rl", "push2d", "--tracker", "none", "--label", "a b"])
    assert describe_command() == "ivideogpt rl push2d --tracker none --label 'a b'"

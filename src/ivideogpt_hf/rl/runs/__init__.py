"""Runs of agents in folders: settings, steps, the state to go on from, upload."""

"""Agents that learn by reinforcement, in simulators and in world models."""

"""What agents act in: simulators and imagined worlds, with demonstrations and evaluations there."""

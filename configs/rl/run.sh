#!/usr/bin/env bash
# Lets agents learn with and without world models, and compares them. After a stop, the same command goes on.
# Without an argument: push2d, which needs no simulator. Else the numbers of the files, such as: run.sh 2 3 4
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

for number in "${@:-1}"; do
    config=$(echo configs/rl/"$number"_*.yaml)
    name=$(basename "${config%.yaml}" | cut -d _ -f 2-)
    ivideogpt rl --config "$config"
    ivideogpt rl-compare outputs/rl/"$name"/*-? --output outputs/rl/"$name"-compared
done

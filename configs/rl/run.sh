#!/usr/bin/env bash
# Lets agents learn with and without world models, and compares them. After a stop, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

ivideogpt rl --config configs/rl/1_push2d.yaml
ivideogpt rl-compare outputs/rl/push2d/*-? --output outputs/rl/push2d-compared
ivideogpt rl --config configs/rl/2_plate_slide.yaml
ivideogpt rl-compare outputs/rl/plate_slide/*-? --output outputs/rl/plate_slide-compared
ivideogpt rl --config configs/rl/3_reach.yaml
ivideogpt rl-compare outputs/rl/reach/*-? --output outputs/rl/reach-compared
ivideogpt rl --config configs/rl/4_button_press.yaml
ivideogpt rl-compare outputs/rl/button_press/*-? --output outputs/rl/button_press-compared

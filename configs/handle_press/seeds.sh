#!/usr/bin/env bash
# The training and the planning with three other seeds: how much does chance decide? run.sh has made data and tokens. After a
# stop, the same command goes on. What the other controllers do does not depend on the model.
set -euo pipefail
cd "$(dirname "$0")/../.."

for seed in 1 2 3; do
  folder=outputs/handle_press/seed_$seed
  ivideogpt train --config configs/handle_press/4_world.yaml --output-dir "$folder/world" --seed "$seed" --resume latest
  ivideogpt plan --config configs/handle_press/5_plan.yaml --checkpoint "$folder/world" --output "$folder/plan" \
    --controllers shuffled model
done

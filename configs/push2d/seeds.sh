#!/usr/bin/env bash
# The whole experiment with three other seeds, each of which trains both networks: how much does chance decide?
# 1_collect.yaml has made the data. After a stop, the same command goes on. PRECISION is explained in run.sh. What the other
# controllers do does not depend on the model.
set -euo pipefail
cd "$(dirname "$0")/../.."

for seed in 1 2 3; do
  folder=outputs/push2d/seed_$seed
  ivideogpt train-vq --config configs/push2d/3_vq.yaml --output-dir "$folder/vq" --seed "$seed" --resume latest
  ivideogpt tokenize --config configs/push2d/4_tokens.yaml --vq-model "$folder/vq" --output-dir "$folder/tokens"
  ivideogpt train --config configs/push2d/5_world.yaml --vq-model "$folder/vq" --tokens "$folder/tokens" \
    --output-dir "$folder/world" --seed "$seed" --resume latest --mixed-precision "${PRECISION:-no}"
  ivideogpt evaluate "$folder/world" --config configs/push2d/6_evaluate.yaml --output "$folder/evaluation"
  ivideogpt plan --config configs/push2d/7_plan.yaml --checkpoint "$folder/world" --output "$folder/plan" \
    --controllers shuffled model
done

#!/usr/bin/env bash
# Makes the data, trains the embedded checkpoint, puts it into the package, evaluates it, and plans in it. After a stop,
# the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

ivideogpt collect --config configs/default/1_collect.yaml
ivideogpt train-vq --config configs/default/3_vq_l1.yaml --resume latest
ivideogpt train-vq --config configs/default/4_vq.yaml --resume latest
ivideogpt tokenize --config configs/default/5_tokens.yaml
ivideogpt train --config configs/default/6_world_constant.yaml --resume latest
ivideogpt train --config configs/default/7_world.yaml --resume latest
python scripts/embed_default.py outputs/default src/ivideogpt_hf/embedded/default
ivideogpt evaluate --config configs/default/8_evaluate.yaml
cp outputs/default/evaluation/curves.png docs/default.png
ivideogpt plan --config configs/default/9_plan.yaml
for task in handle-press coffee-button drawer-close button-press reach; do
  cp "outputs/default/plan/$task/results.json" "benchmarks/results/embedded_plan_${task//-/_}.json"
done

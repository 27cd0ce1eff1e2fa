#!/usr/bin/env bash
# Makes the data, trains the model, evaluates it, and plans in it. After a stop, the same command goes on.
# PRECISION=bf16 makes the transformer's training twice as fast on a processor that has bf16 instructions.
set -euo pipefail
cd "$(dirname "$0")/../.."

ivideogpt collect --config configs/push2d/1_collect.yaml
ivideogpt train-vq --config configs/push2d/3_vq.yaml --resume latest
ivideogpt tokenize --config configs/push2d/4_tokens.yaml
ivideogpt train --config configs/push2d/5_world.yaml --resume latest --mixed-precision "${PRECISION:-no}"
ivideogpt evaluate --config configs/push2d/6_evaluate.yaml
ivideogpt plan --config configs/push2d/7_plan.yaml
# This would put the model into the package, in place of the embedded one:
# python scripts/embed_push2d.py outputs/push2d/world src/ivideogpt_hf/embedded/push2d

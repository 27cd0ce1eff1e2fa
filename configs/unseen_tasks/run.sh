#!/usr/bin/env bash
# Makes the data, trains the model and evaluates it. After a stop, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

ivideogpt collect --config configs/unseen_tasks/1_collect.yaml
ivideogpt train-vq --config configs/unseen_tasks/3_vq_l1.yaml --resume latest
ivideogpt train-vq --config configs/unseen_tasks/4_vq.yaml --resume latest
ivideogpt tokenize --config configs/unseen_tasks/5_tokens.yaml
ivideogpt train --config configs/unseen_tasks/6_world.yaml --resume latest
ivideogpt evaluate --config configs/unseen_tasks/7_evaluate.yaml

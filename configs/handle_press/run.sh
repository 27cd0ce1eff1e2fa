#!/usr/bin/env bash
# Makes the data, trains the transformer, and plans in the model. After a stop, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

ivideogpt collect --config configs/handle_press/1_collect.yaml
ivideogpt tokenize --config configs/handle_press/3_tokens.yaml
ivideogpt train --config configs/handle_press/4_world.yaml --resume latest
ivideogpt plan --config configs/handle_press/5_plan.yaml

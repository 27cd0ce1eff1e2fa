#!/usr/bin/env bash
# Converts BAIR, fine-tunes both networks on it, and evaluates them. After a stop, the same command goes on.
# Usage: configs/bair_64_act_cond/run.sh FOLDER, where FOLDER holds BAIR's files. Once datasets/bair is written, FOLDER is not
# needed any more.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ ! -d datasets/bair/data ]; then
  FOLDER=${1:?datasets/bair is not there yet: say which folder holds BAIR, see configs/bair_64_act_cond/README.md}
  ivideogpt convert-data --config configs/bair_64_act_cond/1_convert.yaml "$FOLDER"
fi
ivideogpt train-vq --config configs/bair_64_act_cond/2_vq.yaml --resume latest
ivideogpt train --config configs/bair_64_act_cond/3_world.yaml --resume latest
ivideogpt evaluate --config configs/bair_64_act_cond/4_evaluate.yaml

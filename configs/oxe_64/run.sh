#!/usr/bin/env bash
# Trains both networks on the paper's mixture of Open X-Embodiment. After a stop, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

FIRST_SOURCE=datasets/fractal20220817_data
if [ ! -d "$FIRST_SOURCE" ]; then
  echo "$FIRST_SOURCE is missing: convert the data sets of the mixture first, see configs/oxe_64/README.md" >&2
  exit 2
fi
ivideogpt train-vq --config configs/oxe_64/1_vq.yaml --resume latest
ivideogpt train --config configs/oxe_64/2_world.yaml --resume latest

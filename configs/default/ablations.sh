#!/usr/bin/env bash
# What the choices in 3_vq_l1.yaml are worth: the first 1,000 updates of that training, as they are and with one choice
# changed, and what each reaches on held-out clips. After a stop, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

towers='"resolution": 64, "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 16, "num_attention_heads": 1,
  "attention_dropout": 0.0'
narrow='"block_out_channels": [16, 32, 96]' wide='"block_out_channels": [16, 48, 96]'
near='"max_att_resolution": 16' far='"max_att_resolution": 32'
scalars='"context_fsq_levels": [8, 5, 5, 5], "dynamics_fsq_levels": [8, 5, 5, 5]'
codebooks='"num_context_codes": 1000, "num_dynamics_codes": 1000, "commitment_cost": 0.25, "normalize_latents": true'
copies='"composites_context": true'

try() {
  local name=$1 config=$2
  shift 2
  ivideogpt train-vq --config configs/default/3_vq_l1.yaml --output-dir "outputs/default/ablations/$name" \
    --vq-config "{$towers, $config}" --num-updates 1000 --sample-every 0 --resume latest "$@"
}

try as_it_is "$narrow, $near, $scalars, $copies"
try without_compositing "$narrow, $near, $scalars"
try without_compositing_attention_at_32 "$narrow, $far, $scalars"
try attention_at_32 "$narrow, $far, $scalars, $copies"
try codebooks "$narrow, $near, $codebooks, $copies" --restart-dead-codes 50
try wide "$wide, $near, $scalars, $copies"
try without_motion_weight "$narrow, $near, $scalars, $copies" --motion-weight 0
try without_squared_error "$narrow, $near, $scalars, $copies" --squared-weight 0

for metrics in outputs/default/ablations/*/metrics.jsonl; do
  echo "$metrics $(grep -o '"validation/\(context\|future\)_psnr": [0-9.]*' "$metrics" | tail -2 | tr '\n' ' ')"
done

#!/usr/bin/env bash
# What the choices in 3_vq_l1.yaml are worth: short trainings, each with one of them changed, and what they reach on
# held-out clips. Prints the table of README.md. After a stop, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."

sizes='"resolution": 64, "block_out_channels": [16, 48, 96], "layers_per_block": 1, "norm_num_groups": 8,
  "latent_channels": 16, "num_context_codes": 1024, "num_dynamics_codes": 512, "num_attention_heads": 1,
  "attention_dropout": 0.0, "commitment_cost": 0.25, "normalize_latents": true'
with_compositing="$sizes, \"composites_context\": true"
fsq='"context_fsq_levels": [8, 5, 5, 5], "dynamics_fsq_levels": [8, 8, 8]'

try() {
  local name=$1 config=$2
  shift 2
  ivideogpt train-vq --config configs/default/3_vq_l1.yaml --output-dir "outputs/default/ablations/$name" \
    --vq-config "{$config}" --num-updates 1000 --validate-every 1000 --save-every 1000 --sample-every 0 --tracker none --resume latest "$@"
}

try as_before "$sizes, \"max_att_resolution\": 32"
try compositing "$with_compositing, \"max_att_resolution\": 32"
try compositing_att16 "$with_compositing, \"max_att_resolution\": 16"
try compositing_att16_fsq "$with_compositing, \"max_att_resolution\": 16, $fsq"
narrow="${sizes/\[16, 48, 96\]/[16, 32, 96]}"
try compositing_att16_narrow "$narrow, \"composites_context\": true, \"max_att_resolution\": 16"
try compositing_att16_motion0 "$with_compositing, \"max_att_resolution\": 16" --motion-weight 0
try compositing_att16_squared "$with_compositing, \"max_att_resolution\": 16" --squared-weight 5

for metrics in outputs/default/ablations/*/metrics.jsonl; do
  echo "$metrics $(grep -o '"validation/\(future_psnr\|context_psnr\|future_l1\)": [0-9.]*' "$metrics" | tail -3 | tr '\n' ' ')"
done

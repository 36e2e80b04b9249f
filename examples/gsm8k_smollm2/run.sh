#!/usr/bin/env bash
# The whole run from the repository's root: prepare, cold start, teacher, evaluation, SOD, evaluation. Arguments go to
# prepare.py. Each command leaves a finished run as it is and goes on with an interrupted one, so this can be repeated.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
out=runs/gsm8k_smollm2
PATH=.venv/bin:$PATH

python "$here/prepare.py" "$@"
sod sft "$here/sft.toml"
sod eval "$here/eval.toml"
sod sft "$here/sft_teacher.toml"
sod train "$here/train.toml"
sod eval "$here/eval.toml" --out $out/eval_after --model $out/sod/checkpoints/update-000003/model
sod report $out/sod

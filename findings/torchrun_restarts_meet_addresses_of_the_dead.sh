#!/usr/bin/env bash
# torchrun --max-restarts starts ranks again that then look for each other at the addresses of those that died (gloo).
#
# One would guess: when a rank dies, torchrun ends the others, starts all again, and these form a new group, as the first
#   ones did: that is what restarts are for.
# Seen with torch 2.15.0 on Python 3.11, Linux x86-64, CPU alone: the group is formed again only if all new ranks write
#   their address before another one reads it. Here rank 1 takes 10 s longer to begin, as after a cold import or a slow
#   disk: rank 0 finds the address that rank 1 had the first time, still in the store that torchrun shares with its ranks.
#   init_process_group raises "RuntimeError: Gloo connectFullMesh failed … Connection refused", the only restart is used
#   up, and torchrun ends with 1. TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each start a store of its own: it ends with 0.
#   (The same of NCCL's id: https://github.com/pytorch/pytorch/issues/135712, closed.)
# Needs network access to the Python package index and some GB of disk; exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
cat > "$folder/work.py" <<'PY'
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
if start == 1 and rank == 1:
    time.sleep(10)
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
total = torch.ones(1)
dist.all_reduce(total)
print(f"rank {rank}, start {start}: {total.item():.0f} ranks\n", end="", flush=True)
if start == 0:
    sys.exit(1)
PY
export OMP_NUM_THREADS=1
for disabled in 0 1; do
    status=0
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=$disabled "$folder/venv/bin/python" -m torch.distributed.run --standalone \
        --nproc-per-node=2 --max-restarts=1 "$folder/work.py" > "$folder/output" 2>&1 || status=$?
    echo "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=$disabled: torchrun ends with $status"
    grep '^rank\|^RuntimeError: Gloo' "$folder/output" | sed 's/^/    /' | cut -c 1-100 || true
    grep -q '^rank 0, start 0: 2 ranks' "$folder/output"
    if [ "$disabled" = 0 ]; then
        [ "$status" = 1 ] && grep -q 'Gloo connectFullMesh failed' "$folder/output"
    else
        [ "$status" = 0 ] && grep -q '^rank 0, start 1: 2 ranks' "$folder/output"
    fi
done

#!/usr/bin/env bash
# Checks and measures everything on a CUDA machine, from the working tree and the packed parts: tools/gpu_check.sh [--help]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" tools/gpu/checking.py "$@"

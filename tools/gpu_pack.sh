#!/usr/bin/env bash
# Packs on a machine with a network all that a bare CUDA machine lacks, in parts: tools/gpu_pack.sh [--help]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" tools/gpu/packing.py "$@"

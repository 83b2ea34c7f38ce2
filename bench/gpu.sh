#!/usr/bin/env bash
# Builds, checks and measures fastgan on a machine with a CUDA device: see gpu.py.
exec python3 "$(dirname "$0")/gpu.py" "$@"

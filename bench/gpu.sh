#!/usr/bin/env bash
# Builds, tests, checks and measures fastgan on a machine with a CUDA device; needs no network.
#
#   bench/gpu.sh OUTDIR
#
# Needs python3 with torch, pybind11, ninja, setuptools, pytest and hypothesis; nvcc to build, compute-sanitizer to check.
# Parts run in order of importance, each with a limit; what cannot run or no longer fits is named in the summary.
# FASTGAN_GPU_SECONDS limits the whole (570). FASTGAN_COMMIT goes into the results of a tree without .git.
# The exit status is 1 if a part failed, 2 for a wrong call.
set -uo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: bench/gpu.sh OUTDIR" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2

total=${FASTGAN_GPU_SECONDS:-570}
least=10
failed=0
summary="$out/summary.txt"
: >"$summary"
export PYTHONUNBUFFERED=1

note() {
  printf '%-32s %s\n' "$1" "$2" >>"$summary"
}

# part NAME LIMIT LOG COMMAND...: runs a command for LIMIT seconds at most, and appends what it prints to OUTDIR/LOG.
part() {
  local name=$1 limit=$2 log="$out/$3" start=$SECONDS status
  shift 3
  local left=$((total - SECONDS))
  if ((left < least)); then
    note "$name" "not run: no time left"
    return 1
  fi
  ((limit = limit < left ? limit : left))
  echo "== $name: at most $limit s"
  timeout --kill-after=5 "$limit" "$@" >"$log.part" 2>&1
  status=$?
  { echo "== $name: $*"; cat "$log.part"; } >>"$log"
  tail -n 8 "$log.part"
  rm -f "$log.part"
  if ((status == 0)); then
    note "$name" "passed in $((SECONDS - start)) s"
  elif ((status == 124 || status == 137)); then
    note "$name" "FAILED: stopped after $limit s, see $(basename "$log")"
    failed=1
  else
    note "$name" "FAILED with status $status, see $(basename "$log")"
    failed=1
  fi
  return "$status"
}

# Prints why CUDA cannot be used; nothing if it can.
no_cuda() {
  python3 - <<'PYTHON' || echo "python3 cannot import torch"
import torch
if not torch.cuda.is_available():
    print(f"torch {torch.__version__} sees no CUDA device")
PYTHON
}

build() {
  FASTGAN_CUDA=1 FASTGAN_CUDA_ARCHS="$1" part "build for sm_$1" 200 build.log \
    python3 -m pip install --editable . --no-build-isolation --no-deps
}

on_gpu() {
  local tool capability
  capability=$(python3 -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  if ! build "$capability"; then
    note "everything on the GPU" "not run: there is no build"
    return
  fi
  part "doctor" 60 doctor.log python3 -m fastgan.cli doctor
  part "tests that need a GPU" 150 tests.log python3 -m pytest -q -m gpu --maxfail=20 -p no:cacheprovider
  part "benchmarks, eager and graphs" 150 bench.log \
    python3 -m fastgan.cli bench run --no-compile --backend cuda --backend triton --json "$out/bench.json" \
    --op spectral_norm --op training_step --op sample_norm --op interpolate
  part "benchmarks of penalties" 150 bench.log \
    python3 -m fastgan.cli bench run --no-compile --backend cuda --json "$out/bench_penalty.json" \
    --op weight_gradient --op gradient_penalty
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
      sanitize "$tool" cuda spectral_norm
      sanitize "$tool" cuda sample
    done
    sanitize memcheck triton spectral_norm
    sanitize memcheck triton sample
  else
    note "compute-sanitizer" "not run: it is not on the PATH"
  fi
  part "benchmarks, torch.compile" 200 bench.log \
    python3 -m fastgan.cli bench run --compile --op spectral_norm --backend cuda --json "$out/bench_compile.json"
}

# sanitize TOOL BACKEND NAME: checks the kernels whose names contain NAME.
sanitize() {
  # Without torch's cache every tensor is an allocation of its own, with an end that can be overrun.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 part "$1 of $2, $3 kernels" 60 sanitizer.log \
    compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes application-only \
    --kernel-regex "kns=$3" python3 -m fastgan.bench.sanitizer_calls "$2"
}

reason=$(no_cuda)
if [[ -z $reason ]]; then
  on_gpu
else
  for name in "build" "tests that need a GPU" "benchmarks" "compute-sanitizer"; do
    note "$name" "not run: $reason"
  done
  part "doctor" 60 doctor.log python3 -m fastgan.cli doctor
fi
part "tests of the ops on the CPU" 200 tests.log \
  python3 -m pytest -q -m "not gpu and not slow" -p no:cacheprovider \
  tests/test_spectral_norm.py tests/test_sample_norm.py tests/test_interpolate.py tests/test_backends.py

echo
echo "== summary"
cat "$summary"
exit "$failed"

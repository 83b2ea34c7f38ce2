#!/usr/bin/env bash
# Builds, tests, checks and measures fastgan on a machine with a CUDA device; needs no network.
#
#   bench/gpu.sh OUTDIR [check | ops | networks | compile]...
#
# check builds, tests and runs compute-sanitizer; ops and networks measure against eager and as graphs, compile against
# torch.compile. Without a name it is all of them, in this order; in calls of their own each has the whole time.
#
# Needs python3 with torch, pybind11, ninja, setuptools, pytest and hypothesis; nvcc to build, compute-sanitizer to check.
# Parts run in order of importance, each with a limit; what cannot run or no longer fits is named in the summary.
# FASTGAN_GPU_SECONDS limits the whole (570). FASTGAN_COMMIT goes into the results of a tree without .git.
# The exit status is 1 if a part failed, 2 for a wrong call.
set -uo pipefail

if [[ $# -lt 1 ]]; then
  echo "usage: bench/gpu.sh OUTDIR [check | ops | networks | compile]..." >&2
  exit 2
fi
for name in "${@:2}"; do
  if [[ ! $name =~ ^(check|ops|networks|compile)$ ]]; then
    echo "bench/gpu.sh: no part $name: there are check, ops, networks and compile" >&2
    exit 2
  fi
done
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
parts=("${@:2}")
((${#parts[@]})) || parts=(check ops networks compile)
cd "$(dirname "$0")/.." || exit 2

total=${FASTGAN_GPU_SECONDS:-570}
least=10
failed=0
summary="$out/summary.txt"
: >"$summary"
export PYTHONUNBUFFERED=1
# What compute-sanitizer checks: parts of kernels' names.
KERNELS=(spectral_norm sample bias_act sum_channels scale_shift_act norm_act pixel_shuffle_act upfirdn2d)

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
  local name capability
  capability=$(python3 -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  if ! build "$capability"; then
    note "everything on the GPU" "not run: there is no build"
    return
  fi
  for name in "${parts[@]}"; do
    "run_$name"
  done
}

run_check() {
  local tool kernels
  part "doctor" 60 doctor.log python3 -m fastgan.cli doctor
  part "tests that need a GPU" 240 tests.log python3 -m pytest -q -m gpu --maxfail=20 -p no:cacheprovider
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
      for kernels in "${KERNELS[@]}"; do
        sanitize "$tool" cuda "$kernels"
      done
    done
    for kernels in "${KERNELS[@]}"; do
      sanitize memcheck triton "$kernels"
    done
  else
    note "compute-sanitizer" "not run: it is not on the PATH"
  fi
}

run_ops() {
  measure ops --no-compile --backend cuda --backend triton \
    --op bias_act --op upfirdn2d --op scale_shift_act --op norm_act --op pixel_shuffle_act --op sample_norm \
    --op interpolate
  measure spectral_norm --no-compile --backend cuda --backend triton --op spectral_norm
  measure resampling --no-compile --backend cuda --op upsample_conv2d --op conv_downsample2d
}

run_networks() {
  measure penalty --no-compile --backend cuda --op weight_gradient --op gradient_penalty
  measure networks --no-compile --backend cuda --op blocks --op training_step
}

run_compile() {
  measure compile --compile --backend cuda --op spectral_norm --op bias_act --op scale_shift_act --op gradient_penalty
}

# measure NAME ARGUMENT...: a result file gpu-NAME.json.
measure() {
  local name=$1
  shift
  part "benchmarks, $name" 240 bench.log python3 -m fastgan.cli bench run --json "$out/gpu-$name.json" "$@"
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
  tests/test_spectral_norm.py tests/test_sample_norm.py tests/test_interpolate.py tests/test_bias_act.py \
  tests/test_upfirdn2d.py tests/test_scale_shift_act.py tests/test_norm_act.py tests/test_backends.py

echo
echo "== summary"
cat "$summary"
exit "$failed"

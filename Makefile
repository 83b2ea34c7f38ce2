# Every target makes its own environment, .venv: a machine needs Python, pip, make and a C++ compiler, nothing else.
#   ARGS     more arguments for the command, such as make test ARGS="-k backends"
#   WORKERS  processes that run the tests, 0 for none beside pytest's own
PYTHON ?= python3
ARGS ?=
WORKERS ?= 2
EXTRAS := train,dev
NATIVE := setup.py $(shell find csrc -type f)
CXX_SOURCES := $(filter %.cpp %.h %.cu %.cuh,$(NATIVE) $(shell find tests -type f))
# Threads that wait do not spin: other processes have their own.
PYTEST_ENV := OMP_WAIT_POLICY=passive
SANITIZED := build/sanitize

.DELETE_ON_ERROR:
.PHONY: help run test test-exact test-oldest bench docs lint format wheel gpu sanitize clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/.built  ## train a GAN on real images for a few minutes on a CPU
	.venv/bin/fastgan train digits --compare --out runs/digits-$$(date +%Y%m%d-%H%M%S) $(ARGS)

test: .venv/.built  ## every test; those that need a GPU are skipped where there is none
	$(PYTEST_ENV) .venv/bin/pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

# Numbers, torch's own vector unit and threads; ours is every level in each run. Seeds of your own: SEEDS="5 6".
SEEDS ?= 0 1 2 3 4
CAPABILITIES ?= default $(shell grep -owE 'avx2|avx512f' /proc/cpuinfo | sort -u | tr -d f)
test-exact: .venv/.built  ## how exact every op is: SEEDS= x torch's CAPABILITIES= x threads x x86-64 levels
	@set -e; for seed in $(SEEDS); do for capability in $(CAPABILITIES); do for threads in 1 2 7; do \
	  echo "seed $$seed, torch's $$capability, $$threads threads"; \
	  case $$capability in default) isa=SSE41;; avx2) isa=AVX2;; *) isa=DEFAULT;; esac; \
	  FASTGAN_TEST_SEED=$$seed ATEN_CPU_CAPABILITY=$$capability ONEDNN_MAX_CPU_ISA=$$isa OMP_NUM_THREADS=$$threads \
	  $(PYTEST_ENV) .venv/bin/pytest --quiet -m exact -k "not emulated" $(ARGS); \
	done; done; done

test-oldest: .venv-oldest/.built  ## the fast tests on the oldest torch that is supported
	$(PYTEST_ENV) .venv-oldest/bin/pytest --numprocesses $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

bench: .venv/.built  ## compare with plain PyTorch on this machine
	.venv/bin/fastgan bench $(ARGS)

docs: .venv/.built  ## the site, in build/docs; a broken link is an error
	.venv/bin/sphinx-build --fail-on-warning --keep-going --quiet --conf-dir docs . build/docs $(ARGS)
	@echo build/docs/index.html

lint: .venv/.installed  ## ruff and clang-format, changing nothing
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/clang-format --dry-run -Werror $(CXX_SOURCES)

format: .venv/.installed  ## apply what lint asks for, where that can be done mechanically
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	.venv/bin/clang-format -i $(CXX_SOURCES)

# torch brings libgomp.so.1 under that name; a copy of our own would be a second pool of threads in one process.
wheel: .venv/.installed  ## dist/*.whl with CUDA code for every GPU, tagged manylinux where auditwheel allows it
	rm -rf dist
	FASTGAN_CUDA_ARCHS="$${FASTGAN_CUDA_ARCHS:-all}" .venv/bin/pip wheel . --no-deps --no-build-isolation --wheel-dir dist/linux
	@PATH=$(CURDIR)/.venv/bin:$$PATH auditwheel repair --exclude libgomp.so.1 --wheel-dir dist dist/linux/*.whl \
	  || { mv dist/linux/*.whl dist/; echo "make wheel: not a manylinux wheel: auditwheel's reason is above"; }
	@rm -r dist/linux; ls -l dist/*.whl

gpu: .venv/.installed  ## build, tests, benchmarks and compute-sanitizer on a CUDA machine, results in OUT=
	PATH=$(CURDIR)/.venv/bin:$$PATH bash bench/gpu.sh $(or $(OUT),runs/gpu)

sanitize: .venv/.built  ## the CPU kernels' tests under AddressSanitizer and UBSan
	FASTGAN_SANITIZE=1 FASTGAN_CUDA=0 .venv/bin/python setup.py --quiet build --build-lib $(SANITIZED)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$(SANITIZED) \
	.venv/bin/pytest -p no:cacheprovider --capture=no tests/test_*.py tests/contract -k cpu-cpu $(ARGS)

clean:  ## remove what was built; the environments stay
	rm -rf build dist fastgan.egg-info fastgan/_build_info.py fastgan/_C*.so .pytest_cache .ruff_cache .hypothesis
	rm -f .venv/.built .venv-oldest/.built
	find bench fastgan kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments ---

# Debian's Python may lack ensurepip: then the pip that is there installs the environment's own.
%/.created:
	$(PYTHON) -m venv $* || { $(PYTHON) -m venv --without-pip $* && $(PYTHON) -m pip --python $*/bin/python install pip; }
	touch $@

.venv/constraints.txt: constraints.txt .venv/.created
	cp constraints.txt $@

.venv-oldest/constraints.txt: constraints.txt .venv-oldest/.created
	sed -e 's/^torch==.*/torch==2.6.0/' -e '/^triton==/d' constraints.txt > $@

%/.installed: pyproject.toml %/constraints.txt
	$*/bin/python -m pip install --constraint $*/constraints.txt ninja pybind11 setuptools
	$*/bin/python -m pip install --constraint $*/constraints.txt --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@

%/.built: %/.installed $(NATIVE)
	$*/bin/python setup.py --quiet build_ext --inplace
	touch $@

.PRECIOUS: %/.created %/.installed %/.built

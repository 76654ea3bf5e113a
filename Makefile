# make sweep   the default sweep, on scikit-learn's digits      make test    the quick tests
# make check   lint, types and format                           make bench   ours against PyTorch, Keras and a plain Flax loop
# make test-export   exported files in onnxruntime, PyTorch and Keras
# make chaos   kills, damage and nonsense, at random            make test-ray    a sweep over a cluster that loses a machine
# make package   the wheel, tried in a new environment          make notebooks   top to bottom, in new environments
# make accelerators   lowers and compiles training for GPU and TPU, without one
# make docs    the site of docs/, in the folder site; its warnings are errors
# make test-sanitizers   the C with checks of memory accesses and of undefined behaviour
PYTHON ?= python3
VENV := .venv
# Tests that need no environment of their own.
HERE := not oracle and not trackers and not export and not accelerators and not docs
PIP = $(1)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: sweep test test-all test-colab check oracle bench chaos test-ray test-sanitizers test-trackers package notebooks pictures clean accelerators accelerators-golden test-export docs tutorial-pictures

sweep: $(VENV)/.ready
	$(VENV)/bin/python launch.py $(ARGS)

test: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not slow and $(HERE)" $(ARGS)

test-all: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -m "not chaos and not ray and not notebook and $(HERE)" $(ARGS)

# Random kills, damage and faults; random command lines. CHAOS_EVENTS, CHAOS_SEED and CHAOS_LINES say how many, and which.
chaos: $(VENV)/.ready-dev
	$(VENV)/bin/python -m pytest -m chaos -s tests/test_chaos.py tests/test_fuzz_cli.py $(ARGS)

# A sweep over a cluster of two Ray nodes on this machine, one of which dies.
test-ray: .venv-ray/.ready
	.venv-ray/bin/python -m pytest -m ray tests/test_distributed.py $(ARGS)

# Files of results, made by the tools that the reader of results knows.
test-trackers: .venv-trackers/.ready
	.venv-trackers/bin/python -m pytest -m trackers tests/test_trackers.py $(ARGS)

# Exported networks, run by onnxruntime, PyTorch, Keras and jax.export: logits equal those of JAX.
test-export: .venv-export/.ready
	.venv-export/bin/python -m pytest -n auto --dist worksteal -m "export or not slow" tests/test_export.py tests/test_export_runtimes.py $(ARGS)

# The quick tests once more, under the versions of Colab's TPU runtime; without those in which JAX has no part, or processes do the work.
WITHOUT_JAX := chaos runner slurm imports card live report stats claims store untrusted about data queue fuzz_cli architecture console cores forecast readme native cli zoo_training benchmarks package notebooks pictures sweep isocost search papers panels trackers
test-colab: .venv-colab/.ready
	.venv-colab/bin/python -m pytest -n auto --dist worksteal -m "not slow and $(HERE)" \
		$(WITHOUT_JAX:%=--ignore=tests/test_%.py) $(ARGS)

# The C of convolution under AddressSanitizer and UndefinedBehaviorSanitizer, by gcc. Python itself is not instrumented, so both
# libasan and the C++ library that it intercepts are loaded first. Tiles are those in C: what AMX accesses is not seen.
SANITIZE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -DEMULATED_TILES
test-sanitizers: $(VENV)/.ready-dev
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so):$$($(CC) -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 CC="$(CC)" CNN_JAX_CFLAGS="$(SANITIZE)" \
		$(VENV)/bin/python -m pytest -s tests/test_native.py tests/test_convolution.py tests/test_norm.py \
		-k "random_shapes or not_finite or (native and (at_once or e1_ or values_and or nothing or diverged))" $(ARGS)

# Training programs lowered and compiled for an H100 and a TPU v5e, neither of which need be here; and the command that writes
# down what a step of them costs (tests/accelerators/golden.json). See docs/accelerators.md.
accelerators: .venv-accelerators/.ready
	.venv-accelerators/bin/python -m pytest -n 2 --dist worksteal --durations=5 -m accelerators tests/accelerators $(ARGS)

accelerators-golden: .venv-accelerators/.ready
	PYTHONPATH=. .venv-accelerators/bin/python tests/accelerators/golden.py

# Convolution, pooling and gradients against PyTorch and Keras; textbook designs against statsmodels.
oracle: .venv-oracle/.ready
	KERAS_BACKEND=torch .venv-oracle/bin/python -m pytest -n auto -m oracle tests/oracle $(ARGS)

# Whole processes in turns: nothing else should run on the machine. See benchmarks/README.md.
bench: $(VENV)/.ready .venv-bench/.ready
	$(VENV)/bin/python -m benchmarks.sweep $(ARGS)

check: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/clang-format --dry-run -Werror cnn_jax/ops/native/*.c cnn_jax/ops/native/*.h

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(call PIP,$(VENV)) -r requirements.txt
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(call PIP,$(VENV)) -r requirements-dev.txt
	touch $@

.venv-colab/.ready: requirements.txt requirements-dev.txt constraints-colab.txt
	$(PYTHON) -m venv .venv-colab
	$(call PIP,.venv-colab) -r requirements-dev.txt -c constraints-colab.txt
	touch $@

.venv-notebooks/.ready: requirements.txt requirements-notebooks.txt
	$(PYTHON) -m venv .venv-notebooks
	$(call PIP,.venv-notebooks) -r requirements-notebooks.txt
	touch $@

.venv-notebooks-colab/.ready: requirements.txt requirements-notebooks.txt constraints-colab.txt
	$(PYTHON) -m venv .venv-notebooks-colab
	$(call PIP,.venv-notebooks-colab) -r requirements-notebooks.txt -c constraints-colab.txt
	touch $@

.venv-docs/.ready: requirements.txt requirements-docs.txt
	$(PYTHON) -m venv .venv-docs
	$(call PIP,.venv-docs) -r requirements-docs.txt
	touch $@

.venv-trackers/.ready: requirements.txt requirements-imports.txt requirements-trackers.txt
	$(PYTHON) -m venv .venv-trackers
	$(call PIP,.venv-trackers) -r requirements-trackers.txt
	touch $@

.venv-export/.ready: requirements.txt requirements-dev.txt requirements-export.txt constraints-oracle.txt
	$(PYTHON) -m venv .venv-export
	$(call PIP,.venv-export) -r requirements-dev.txt -r requirements-export.txt -c constraints-oracle.txt
	touch $@

.venv-ray/.ready: requirements.txt requirements-dev.txt requirements-ray.txt
	$(PYTHON) -m venv .venv-ray
	$(call PIP,.venv-ray) -r requirements-dev.txt -r requirements-ray.txt
	touch $@

.venv-oracle/.ready: requirements.txt requirements-dev.txt requirements-oracle.txt constraints-oracle.txt
	$(PYTHON) -m venv .venv-oracle
	$(call PIP,.venv-oracle) -r requirements-dev.txt -r requirements-oracle.txt -c constraints-oracle.txt
	touch $@

# The compilers alone: without NVIDIA's libraries, which only a GPU needs.
.venv-accelerators/.ready: requirements.txt requirements-dev.txt requirements-accelerators.txt constraints-accelerators.txt
	$(PYTHON) -m venv .venv-accelerators
	$(call PIP,.venv-accelerators) -r requirements-dev.txt -r requirements-accelerators.txt -c constraints-accelerators.txt
	touch $@

.venv-bench/.ready: requirements-bench.txt constraints-bench.txt
	$(PYTHON) -m venv .venv-bench
	$(call PIP,.venv-bench) -r requirements-bench.txt -c constraints-bench.txt
	touch $@

# The wheel, built and tried in new environments. PYTHONS="python3.11 python3.13" says in which.
package:
	.ci/package $(or $(PYTHONS),$(PYTHON))

# The notebooks, top to bottom, in environments in which they install cnn_jax: with the newest versions, and with Colab's.
notebooks: .venv-notebooks/.ready .venv-notebooks-colab/.ready
	.venv-notebooks/bin/python -m pytest -m notebook tests/test_notebooks.py $(ARGS)
	.venv-notebooks-colab/bin/python -m pytest -m notebook tests/test_notebooks.py $(ARGS)

# The site, from nothing, and what its pages must have. It works from files and asks for nothing outside itself.
docs: .venv-docs/.ready
	rm -rf site .cache/docs docs/reference
	.venv-docs/bin/python -m sphinx -q -W --keep-going -b html -d .cache/docs docs site
	.venv-docs/bin/python -m pytest -m docs tests/test_site.py $(ARGS)

# README's pictures of a report, from a sweep in OUT; needs chromium.
pictures: $(VENV)/.ready
	$(VENV)/bin/python docs/screenshots.py $(or $(OUT),runs/grid)/report.html docs/pictures
	$(VENV)/bin/python docs/padding_pictures.py docs/pictures/padding

# The tutorial's pictures, from the sweeps of its commands in the folder runs; needs chromium.
tutorial-pictures: $(VENV)/.ready
	$(VENV)/bin/python docs/tutorial_pictures.py runs docs/pictures/tutorial

clean:
	rm -rf .venv .venv-accelerators .venv-colab .venv-oracle .venv-ray .venv-trackers .venv-bench .venv-notebooks .venv-notebooks-colab .venv-export .venv-docs site

# Everything sets itself up in .venv: `make demo` or `make test` on a fresh machine is enough.
PYTHON ?= python3
DATA ?= digits
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard csrc/* csrc/cpu/* csrc/cuda/*)
SANITIZED := build/sanitized
UNDER_SANITIZER := LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
KERNEL_TESTS := $(patsubst %,tests/test_%.py,operators classwise_conv classwise_spectrum crop_flip local_contrast pgd_step bayes_error bayes_ascent_step)
export PATH := $(abspath $(BIN)):$(PATH)
BENCH := $(BIN)/pytest benchmarks -o python_files='bench_*.py' --benchmark-enable --benchmark-columns=median,rounds

.PHONY: demo test fuzz test-sanitized build bench wheels results style pins clean

demo: $(VENV)/.built
	$(BIN)/unlearnable demo --data $(DATA)

# A process for every core, of one thread each: whole files, so that these share what their tests set up.
test: $(VENV)/.built
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

# Some hours: ten thousand damaged files of each kind, and a kill at every call that changes the disk.
fuzz: $(VENV)/.built
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --timeout 0 --hypothesis-profile=night tests/test_fuzz.py tests/test_crashes.py

build: $(VENV)/.built

bench: $(VENV)/.built
	status=0; \
	$(BENCH) --figures build/cpu.json || status=1; \
	UNLEARNABLE_CPU_CAPABILITY=avx2 $(BENCH) --figures build/cpu-avx2.json || status=1; \
	exit $$status

# One for each Python that uv finds, in dist/, each tried in an empty environment.
wheels: $(VENV)/.installed
	$(BIN)/python scripts/build_wheels.py dist

# docs/results.md, docs/results.html, docs/results/ and the README's figures from the JSON files in results/.
results: $(VENV)/.built
	$(BIN)/python scripts/results_page.py

style: $(VENV)/.built
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The operators' tests on kernels built with the address and undefined-behaviour sanitizers, from the source
# distribution and in an environment that has what it requires and nothing else: whatever it lacks shows here.
test-sanitized: $(SANITIZED)/.built
	$(UNDER_SANITIZER) $(SANITIZED)/bin/python -I -c "from unlearnable_kernels.ops import native; \
		print('installed from the source distribution:', native.cpu_backend()); assert native.cpu_module"
	$(UNDER_SANITIZER) PYTHONPATH="$$(echo $(SANITIZED)/lib/python*/site-packages)" \
	OMP_NUM_THREADS=1 $(BIN)/pytest -p no:cacheprovider -n auto $(KERNEL_TESTS) -m "not unsanitized"

$(SANITIZED)/.built: $(VENV)/.built
	rm -rf $(SANITIZED) build/sdist
	$(BIN)/uv build -q --sdist --no-build-isolation --python $(BIN)/python -o build/sdist
	UNLEARNABLE_SANITIZE=1 UNLEARNABLE_REQUIRE_NATIVE=1 $(BIN)/uv build -q --wheel --no-build-isolation \
		--python $(BIN)/python -o build/sdist build/sdist/*.tar.gz
	$(BIN)/uv venv -q --python $(BIN)/python $(SANITIZED)
	$(BIN)/uv pip install -q --python $(SANITIZED)/bin/python -c requirements-dev.txt build/sdist/*.whl
	touch $@

$(VENV)/.installed: requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q -r requirements-dev.txt
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/uv pip install -q --no-build-isolation --no-deps --reinstall -e .
	touch $@

pins: $(VENV)/.installed
	$(BIN)/uv pip compile -q --universal --upgrade --python-version 3.10 --no-header --no-annotate \
		--no-emit-index-url --extra commands --extra dev pyproject.toml requirements-dev.in -o requirements-dev.txt

clean:
	rm -rf build $(VENV) unlearnable_kernels/*.so unlearnable_kernels/*.failed *.egg-info

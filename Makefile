# The entry point. `make help` lists the commands.
#
# TORCH=2.14.1   which torch; each has its own environment, .venv/torch-$(TORCH)
# CORE=matching  which ste-core the tests run with: matching, none, or other (built for another torch)
# PYTHON=python3 which Python creates the environments

TORCH ?= 2.13.0
CORE ?= matching
PYTHON ?= python3

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
export PIP_DISABLE_PIP_VERSION_CHECK := 1

env := .venv/torch-$(TORCH)
python := $(env)/bin/python
other_torch := $(if $(filter 2.14.%,$(TORCH)),2.13.0,2.14.1)

# Tests take from milliseconds to half a minute, so a worker that has finished takes tests from another.
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -q -n auto --maxprocesses=8 --dist worksteal

core_sources := $(shell find packages/ste-core cmake -type f -not -name '*.pyc')

ifeq ($(CORE),matching)
core_wheel := build/wheels/torch-$(TORCH)/stamp
expect := native
else ifeq ($(CORE),other)
core_wheel := build/wheels/torch-$(other_torch)/stamp
expect := mismatched
else ifeq ($(CORE),none)
core_wheel :=
expect := absent
else
$(error CORE must be matching, none or other, got $(CORE))
endif

.PHONY: help demo test test-slow matrix jobs mutants sweep sanitize soak bench peers cuda wheels docs docs-check lint lock format clean core

help:
	@echo "make demo    train quantized networks on real data, with tables and a plot of the results"
	@echo "make test    run all tests          (TORCH=2.14.1: with that torch; CORE=none: without ste-core;"
	@echo "                                     CORE=other: with a ste-core built for another torch)"
	@echo "make test-slow  run the slow tests that make test skips, except those of the matrix"
	@echo "make matrix  test every transform on both backends, and write docs/matrix.md (TORCH=2.14.1)"
	@echo "make jobs    test each quantizer of ste.nn in each stage of its life, and write docs/jobs.md (TORCH=2.14.1)"
	@echo "make mutants change the packages in one place at a time, show which test finds it, and write docs/mutants.md"
	@echo "                                    (ONLY=text: repeat those with that text in their name, file or lines)"
	@echo "make sweep   put all 2^32 numbers of float32 through every op, on both backends and in NumPy, and write docs/sweep.md;"
	@echo "                                    then try 100,000 tensors in blocks. Resumes after an interruption"
	@echo "                                    (ONLY=fake_quantize: repeat that op's cases, or those with that text; TORCH=2.14.1)"
	@echo "make sanitize  run the tests of ste-core's arithmetic and a fuzzer with AddressSanitizer and UBSan in both libraries,"
	@echo "                                    for each instruction set, and write docs/sanitize.md (TORCH=2.14.1)"
	@echo "make soak    call every op a million times in each way, check that memory does not grow, and fork among"
	@echo "                                    threads; write docs/soak.md (QUICK=1: a thousand times, into build/soak.md;"
	@echo "                                    ONLY=threads repeats the forks; TORCH=2.14.1)"
	@echo "make bench   compare the speed of the ops with torch.round and with what people use instead, and write docs/bench.md"
	@echo "                                    (PEERS=1: Brevitas and torchao too; QUICK=1: less, into build/bench.md;"
	@echo "                                     ONLY=formats: repeat that part)"
	@echo "make peers   compare the surrogates with snntorch's and spikingjelly's, and formats and blocks with gfloat's and"
	@echo "                                    torchao's; installs all four (TORCH=2.14.1)"
	@echo "make cuda    compile the CUDA kernels, and check what can be checked without a GPU (TORCH=2.14.1)"
	@echo "make wheels  build what is published, and test it as installed, outside the repository"
	@echo "make docs    build the site in build/site (CORE=none: without ste-core); make docs-check looks at it in a browser"
	@echo "make lint    check types, style, versions, and the format of the files that GitHub and others read"
	@echo "make lock    update requirements/ to the newest versions of the build and release tools, with their hashes"
	@echo "make format  format the sources"
	@echo "make clean   remove everything that make has created"

demo: core $(env)/demo.stamp
	$(python) examples/digits.py --check
	$(python) examples/modules.py --check
	$(python) examples/characters.py --check

test: core
	STE_TEST_EXPECT=$(expect) $(pytest) -m "not slow" $(PYTEST_ARGS)

# The tests that `make test`, `make matrix` and `make jobs` skip.
test-slow: core
	STE_TEST_EXPECT=$(expect) $(pytest) -m slow --ignore=tests/matrix --ignore=tests/jobs $(PYTEST_ARGS)

# One run for each column of the table: our backends, and what replaces them.
SUBJECTS ?= native python idiom function

matrix: core
ifneq ($(CORE),matching)
	$(error make matrix needs CORE=matching: one of its columns is the native backend)
endif
	for subject in $(SUBJECTS); do \
	  case $$subject in \
	    native) run="STE_BACKEND=native STE_TEST_EXPECT=native" ;; \
	    python) run="STE_BACKEND=python STE_TEST_EXPECT=absent" ;; \
	    *) run="STE_MATRIX_SUBJECT=$$subject" ;; \
	  esac; \
	  env $$run STE_MATRIX_RESULTS=docs/matrix/torch-$(TORCH)-$$subject.json $(pytest) tests/matrix $(PYTEST_ARGS); \
	done
	$(python) tools/matrix.py
	$(python) tools/figures.py

# One run for each backend.
jobs: core
ifneq ($(CORE),matching)
	$(error make jobs needs CORE=matching: it runs on both backends)
endif
	STE_BACKEND=native STE_TEST_EXPECT=native STE_MATRIX_RESULTS=docs/jobs/torch-$(TORCH)-native.json $(pytest) tests/jobs $(PYTEST_ARGS)
	STE_BACKEND=python STE_TEST_EXPECT=absent STE_MATRIX_RESULTS=docs/jobs/torch-$(TORCH)-python.json $(pytest) tests/jobs $(PYTEST_ARGS)
	$(python) tools/jobs.py

mutants: core
	$(python) tools/mutants.py $(if $(ONLY),--only "$(ONLY)")

# Exhaustive tests, too slow for `make test`.
sweep: core $(env)/sweep.stamp
ifneq ($(CORE),matching)
	$(error make sweep needs CORE=matching: it compares the backends)
endif
	$(python) tools/sweep.py $(if $(ONLY),--only "$(ONLY)")
ifndef ONLY
	STE_TEST_EXPECT=$(expect) $(pytest) tests/sweep $(PYTEST_ARGS)
endif

# Both libraries, compiled with sanitizers, in a wheel of their own that is found before the installed one. Without
# optimization, with which the compiler takes twenty times as long; without vptr, which needs type information that torch
# does not export.
sanitize_wheel := build/wheels/torch-$(TORCH)-sanitize/stamp
sanitize_flags := -fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all \
  -fno-omit-frame-pointer -D_GLIBCXX_ASSERTIONS

sanitize: $(sanitize_wheel)
	$(python) tools/sanitize.py build/sanitize/torch-$(TORCH) $(if $(QUICK),build/sanitize-quick --quick,docs/sanitize)

$(sanitize_wheel): $(core_sources) | $(env)/packages.stamp
	rm -rf $(@D) build/sanitize/torch-$(TORCH)
	$(env)/bin/pip wheel -q --no-build-isolation --no-deps -w $(@D) packages/ste-core \
	  -Cbuild-dir=$(CURDIR)/build/ste-core/torch-$(TORCH)-sanitize -Ccmake.define.STE_CUDA=OFF \
	  -Ccmake.build-type=Debug "-Ccmake.define.CMAKE_CXX_FLAGS_DEBUG=-O0 -g1 $(sanitize_flags)"
	$(env)/bin/pip install -q --no-deps --target build/sanitize/torch-$(TORCH) $(@D)/ste_core-*.whl
	touch $@

# If the native backend does not load, fail instead of measuring the other one.
soak: core $(env)/soak.stamp
	STE_BACKEND=$(if $(filter native,$(expect)),native,python) $(python) tools/soak.py $(if $(QUICK),build/soak --calls 1000,docs/soak) \
	  $(if $(ONLY),--only $(ONLY))

bench_results := $(if $(QUICK),build,docs)/bench/results.json

bench: core $(env)/bench.stamp $(if $(PEERS),$(env)/peers.stamp)
	$(python) tools/bench.py $(if $(PEERS),--peers) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(bench_results)
	$(python) tools/bench_report.py $(bench_results)
	$(if $(QUICK),,$(python) tools/figures.py)

# What the guides say about snntorch, spikingjelly, gfloat and torchao. `make test` skips it because it needs their packages.
peers: core $(env)/peers.stamp
ifneq ($(CORE),matching)
	$(error make peers needs CORE=matching: it runs on both backends)
endif
	STE_BACKEND=native STE_TEST_EXPECT=native $(pytest) tests/peers $(PYTEST_ARGS)
	STE_BACKEND=python STE_TEST_EXPECT=absent $(pytest) tests/peers $(PYTEST_ARGS)

# A separate wheel with CUDA kernels, found before the installed one. The code for the CPU is the same in both.
cuda_torch := $(if $(filter command line,$(origin TORCH)),$(TORCH),2.14.1)
cuda_wheel := build/wheels/torch-$(cuda_torch)-cuda/stamp
cuda_python := PYTHONPATH=$(CURDIR)/build/cuda/torch-$(cuda_torch) STE_BACKEND=native STE_TEST_EXPECT=native .venv/torch-$(cuda_torch)/bin/python

cuda: $(cuda_wheel)
	$(cuda_python) tools/check_cuda.py
	$(cuda_python) -m pytest -q tests/test_subclasses.py tests/test_cuda.py tests/test_dispatcher.py

$(cuda_wheel): $(core_sources) | .venv/torch-$(cuda_torch)/packages.stamp
	rm -rf $(@D) build/cuda/torch-$(cuda_torch)
	.venv/torch-$(cuda_torch)/bin/pip wheel -q --no-build-isolation --no-deps -w $(@D) packages/ste-core \
	  -Cbuild-dir=$(CURDIR)/build/ste-core/torch-$(cuda_torch) -Ccmake.define.STE_WERROR=ON -Ccmake.define.STE_CUDA=ON
	.venv/torch-$(cuda_torch)/bin/pip install -q --no-deps --target build/cuda/torch-$(cuda_torch) $(@D)/ste_core-*.whl
	touch $@

# What is published: one wheel of ste-core with a build for each of BUILDS, tested with each of them and with each of OTHERS,
# for which it has no build. A release runs the same two commands.
BUILDS ?= 2.13.0 2.14.1
OTHERS ?=

wheels: .venv/release/stamp $(BUILDS:%=build/wheels/torch-%/stamp)
	.venv/release/bin/python tools/wheels.py assemble $(BUILDS:%=build/wheels/torch-%) --into build/dist --here $(BUILDS)
	.venv/release/bin/python tools/wheels.py test build/dist --torch $(BUILDS) --others $(OTHERS) --pytest $(PYTEST_ARGS)

# The site, for which every guide runs, on one thread: beside another process, two that wait for each other take longer.
# It requires Doxygen, and docs-check Chromium: neither is a Python package.
docs: core $(env)/docs.stamp
	rm -rf build/site build/doctrees
	OMP_NUM_THREADS=1 $(python) -m sphinx --quiet --nitpicky --fail-on-warning --keep-going -d build/doctrees docs build/site

docs-check: docs
	$(pytest) docs/test_site.py $(PYTEST_ARGS)

python_sources := packages/ste-py/src packages/ste-core/src tests tools examples docs
cpp_sources := $(shell find packages/ste-core/csrc packages/ste-core/include tests/cpp tests/downstream -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')

check_schema = $(env)/bin/check-jsonschema --quiet --builtin-schema vendor

lint: $(env)/packages.stamp $(env)/lint.stamp
	$(env)/bin/ruff check $(python_sources)
	$(env)/bin/ruff format --check $(python_sources)
	$(env)/bin/mypy
	$(env)/bin/clang-format --dry-run --Werror $(cpp_sources)
	$(python) tools/check_versions.py
	$(python) tools/check_lock.py
	$(env)/bin/zizmor --offline --quiet .github
	$(check_schema).github-workflows .github/workflows/*.yml
	$(check_schema).github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(check_schema).dependabot .github/dependabot.yml
	$(check_schema).readthedocs .readthedocs.yaml
	$(check_schema).citation-file-format CITATION.cff

# One file for all systems and Pythons, from 3.10 on; it names no index.
lock: $(env)/lint.stamp
	for group in build release; do \
	  $(env)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	    --custom-compile-command "make lock" --group $$group -o requirements/$$group.txt; \
	done

format: $(env)/packages.stamp $(env)/lint.stamp
	$(env)/bin/ruff check --fix $(python_sources)
	$(env)/bin/ruff format $(python_sources)
	$(env)/bin/clang-format -i $(cpp_sources)

clean:
	rm -rf .venv build demo_results

# The environment: torch, then the tools, then ste-py in place.

.venv/torch-%/torch.stamp:
	$(PYTHON) -m venv .venv/torch-$*
	.venv/torch-$*/bin/pip install -q "pip>=25.1"
	.venv/torch-$*/bin/pip install -q torch==$*
	touch $@

# The build tools come last, so that no other package changes their versions: a release compiles with these.
.venv/torch-%/packages.stamp: .venv/torch-%/torch.stamp pyproject.toml requirements/build.txt packages/ste-py/pyproject.toml
	.venv/torch-$*/bin/pip install -q --group test
	.venv/torch-$*/bin/pip install -q --require-hashes -r requirements/build.txt
	.venv/torch-$*/bin/pip install -q --no-build-isolation -e packages/ste-py
	touch $@

# Names the installed torch: the newest dependencies of some of these packages are for another torch, and would install it.
$(addprefix $(env)/,demo.stamp lint.stamp soak.stamp sweep.stamp bench.stamp peers.stamp docs.stamp): $(env)/%.stamp: $(env)/torch.stamp pyproject.toml
	$(env)/bin/pip install -q torch==$(TORCH) --group $*
	touch $@

# The tools that build what is published do not need torch.
.venv/release/stamp: requirements/release.txt
	$(PYTHON) -m venv --clear .venv/release
	.venv/release/bin/pip install -q --require-hashes -r requirements/release.txt
	touch $@

# ste-core: a wheel for each torch, compiled against the installed one; the wheel that CORE selects is then installed.

build/wheels/torch-%/stamp: $(core_sources) | .venv/torch-%/packages.stamp
	rm -rf $(@D)
	.venv/torch-$*/bin/pip wheel -q --no-build-isolation --no-deps -w $(@D) packages/ste-core \
	  -Cbuild-dir=$(CURDIR)/build/ste-core/torch-$* -Ccmake.define.STE_WERROR=ON -Ccmake.define.STE_CUDA=OFF
	touch $@

core: $(env)/packages.stamp $(core_wheel)
ifeq ($(CORE),none)
	@if [ -e $(env)/core ]; then $(env)/bin/pip uninstall -q -y ste-core; rm $(env)/core; fi
else
	@sum=$$(cksum $(dir $(core_wheel))ste_core-*.whl); \
	if [ "$$(cat $(env)/core 2>/dev/null)" != "$$sum" ]; then \
	  $(env)/bin/pip install -q --no-deps --force-reinstall $(dir $(core_wheel))ste_core-*.whl; \
	  echo "$$sum" > $(env)/core; \
	fi
endif

# The front door. `make help` lists what there is.
#
# TORCH=2.14.1   which torch; each has an environment of its own, .venv/torch-$(TORCH)
# CORE=matching  which ste-core the tests run with: matching, none, or other (built for another torch)
# PYTHON=python3 which Python the environments are made with

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

# Tests take from milliseconds to half a minute: a worker that is done takes from another's.
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

.PHONY: help demo test test-slow matrix jobs mutants sweep soak bench peers cuda wheels docs docs-check lint lock format clean core

help:
	@echo "make demo    train quantized networks on real data, with tables and a plot of the results"
	@echo "make test    run all tests          (TORCH=2.14.1: with that torch; CORE=none: without ste-core;"
	@echo "                                     CORE=other: with a ste-core that was built for another torch)"
	@echo "make test-slow  run what it leaves out as slow, the matrix aside"
	@echo "make matrix  prove every transform on both backends, and write the table of it, docs/matrix.md (TORCH=2.14.1)"
	@echo "make jobs    prove each quantizer of ste.nn in each stage of its life, and write the table, docs/jobs.md (TORCH=2.14.1)"
	@echo "make mutants change the packages in one place at a time, see which test finds it, and write docs/mutants.md"
	@echo "                                    (ONLY=text: those again that have it in their name, file or lines)"
	@echo "make sweep   put all 2^32 numbers of float32 through every op, on both backends and in NumPy, and write docs/sweep.md;"
	@echo "                                    then try 100,000 tensors in blocks. Stopped or killed, it goes on where it was"
	@echo "                                    (ONLY=fake_quantize: the cases of that op, or with that text, again; TORCH=2.14.1)"
	@echo "make soak    call every op a million times in each way, to see that memory is flat, and fork among threads, for an hour;"
	@echo "                                    it writes docs/soak.md (QUICK=1: a thousand times, into build/soak.md; TORCH=2.14.1)"
	@echo "make bench   measure the ops beside torch.round and what people use in their place, and write docs/bench.md"
	@echo "                                    (PEERS=1: Brevitas and torchao too; QUICK=1: less, into build/bench.md;"
	@echo "                                     ONLY=formats: that part again)"
	@echo "make peers   compare the surrogates with snntorch's and spikingjelly's, and formats and blocks with gfloat's and"
	@echo "                                    torchao's; it installs the four (TORCH=2.14.1)"
	@echo "make cuda    compile the CUDA kernels, and check what can be checked of them without a GPU (TORCH=2.14.1)"
	@echo "make wheels  build what is published, and test it as installed, outside of the repository"
	@echo "make docs    make the site, build/site (CORE=none: without ste-core); make docs-check looks at it in a browser"
	@echo "make lint    check types, style, versions, and the form of the files that GitHub and others read"
	@echo "make lock    the newest versions of what builds and checks the packages, with their hashes, into requirements/"
	@echo "make format  format the sources"
	@echo "make clean   remove everything that make has made"

demo: core $(env)/demo.stamp
	$(python) examples/digits.py --check
	$(python) examples/modules.py --check
	$(python) examples/characters.py --check

test: core
	STE_TEST_EXPECT=$(expect) $(pytest) -m "not slow" $(PYTEST_ARGS)

# What `make test`, `make matrix` and `make jobs` leave out.
test-slow: core
	STE_TEST_EXPECT=$(expect) $(pytest) -m slow --ignore=tests/matrix --ignore=tests/jobs $(PYTEST_ARGS)

# One run for each column of the table: our backends, and what stands in their place.
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

# What is exhaustive, and too slow for the other tests.
sweep: core $(env)/sweep.stamp
ifneq ($(CORE),matching)
	$(error make sweep needs CORE=matching: it compares the backends)
endif
	$(python) tools/sweep.py $(if $(ONLY),--only "$(ONLY)")
ifndef ONLY
	STE_TEST_EXPECT=$(expect) $(pytest) tests/sweep $(PYTEST_ARGS)
endif

# A native backend that does not load is an error, and not the other's results.
soak: core $(env)/soak.stamp
	STE_BACKEND=$(if $(filter native,$(expect)),native,python) $(python) tools/soak.py $(if $(QUICK),build/soak --calls 1000,docs/soak)

bench_results := $(if $(QUICK),build,docs)/bench/results.json

bench: core $(env)/bench.stamp $(if $(PEERS),$(env)/peers.stamp)
	$(python) tools/bench.py $(if $(PEERS),--peers) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(bench_results)
	$(python) tools/bench_report.py $(bench_results)
	$(if $(QUICK),,$(python) tools/figures.py)

# What the guides say of snntorch, spikingjelly, gfloat and torchao. `make test` leaves it out, for it takes their packages.
peers: core $(env)/peers.stamp
ifneq ($(CORE),matching)
	$(error make peers needs CORE=matching: it runs on both backends)
endif
	STE_BACKEND=native STE_TEST_EXPECT=native $(pytest) tests/peers $(PYTEST_ARGS)
	STE_BACKEND=python STE_TEST_EXPECT=absent $(pytest) tests/peers $(PYTEST_ARGS)

# With CUDA kernels: a wheel of its own, found before the installed one. What is compiled for the CPU is the same in both.
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

# What is published: one wheel of ste-core with a build for each of BUILDS, tested with each, and with each of OTHERS, which
# it has no build for. A release runs the same two commands.
BUILDS ?= 2.13.0 2.14.1
OTHERS ?=

wheels: .venv/release/stamp $(BUILDS:%=build/wheels/torch-%/stamp)
	.venv/release/bin/python tools/wheels.py assemble $(BUILDS:%=build/wheels/torch-%) --into build/dist --here $(BUILDS)
	.venv/release/bin/python tools/wheels.py test build/dist --torch $(BUILDS) --others $(OTHERS) --pytest $(PYTEST_ARGS)

# The site, in which every guide has run. It takes Doxygen, and to look at it Chromium, which are no packages of Python's.
docs: core $(env)/docs.stamp
	rm -rf build/site build/doctrees
	$(python) -m sphinx --quiet --nitpicky --fail-on-warning --keep-going -d build/doctrees docs build/site

docs-check: docs
	$(python) -m pytest -q docs/test_site.py

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

# One file for all systems and Pythons, the oldest of which is 3.10; it names no index.
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

# The build tools are installed last, so that no other package changes their versions: a release compiles with these.
.venv/torch-%/packages.stamp: .venv/torch-%/torch.stamp pyproject.toml requirements/build.txt packages/ste-py/pyproject.toml
	.venv/torch-$*/bin/pip install -q --group test
	.venv/torch-$*/bin/pip install -q --require-hashes -r requirements/build.txt
	.venv/torch-$*/bin/pip install -q --no-build-isolation -e packages/ste-py
	touch $@

# With the torch that is there: of what some of these packages need, the newest is for another torch, and brings it.
$(addprefix $(env)/,demo.stamp lint.stamp soak.stamp sweep.stamp bench.stamp peers.stamp docs.stamp): $(env)/%.stamp: $(env)/torch.stamp pyproject.toml
	$(env)/bin/pip install -q torch==$(TORCH) --group $*
	touch $@

# The tools that make what is published need no torch.
.venv/release/stamp: requirements/release.txt
	$(PYTHON) -m venv --clear .venv/release
	.venv/release/bin/pip install -q --require-hashes -r requirements/release.txt
	touch $@

# ste-core: a wheel for each torch, compiled against the one that is installed, and the one that CORE asks for installed.

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

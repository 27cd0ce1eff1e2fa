# Developer commands; `make help` lists them. Everything happens in .venv, which is made where it does not exist.
# Experiments are no developer commands: configs/ has a folder for each.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z0-9%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-18s %s\n", $$1, $$2}'

# Torch first and alone: a later, looser requirement would otherwise be free to choose another, larger build of it.
$(VENV)/torch.stamp:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	@touch $@

$(VENV)/package.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# Of stable-worldmodel the tests take the solvers, which need nothing of what the rest of it does.
$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps "stable-worldmodel==0.1.1"
	@touch $(VENV)/package.stamp $@

.PHONY: predict
predict: $(VENV)/package.stamp ## predict real video with the embedded model; writes outputs/prediction.gif
	$(BIN)/ivideogpt predict

.PHONY: types
types: $(VENV)/dev.stamp ## check the types of the public modules, and of code as users write it
	$(BIN)/mypy

.PHONY: lint
lint: $(VENV)/dev.stamp ## check lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# With --jobs 2, types are checked beside the tests.
.PHONY: test
test: lint types pytest ## check lint, format and types, and run the tests

.PHONY: pytest
pytest: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --ignore tests/spaces/test_browser.py

# The lowest versions that pyproject.toml admits of what it names. uv only chooses them: it would take another build of torch.
$(VENV)/lowest.stamp: $(VENV)/torch.stamp pyproject.toml
	$(PYTHON) -m venv $(VENV)/lowest
	$(VENV)/lowest/bin/python -m pip install --quiet "torch==2.13.0" "uv>=0.13"
	$(VENV)/lowest/bin/uv pip compile --quiet --python $(VENV)/lowest/bin/python --extra dev --resolution lowest-direct \
	  --no-emit-package torch --output-file $(VENV)/lowest.txt pyproject.toml
	$(VENV)/lowest/bin/python -m pip install --quiet --constraint $(VENV)/lowest.txt --editable ".[dev]"
	@touch $@

.PHONY: test-lowest
test-lowest: $(VENV)/lowest.stamp ## run the tests with the lowest versions that are admitted
	$(VENV)/lowest/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --ignore tests/spaces/test_browser.py

# What the targets below need, each installed by the first that needs it. `make extras` installs it in one go, since pip
# finds out each time anew what fits together.
SIMULATORS := data,metaworld,robodesk,pusht
ONNX := "onnx>=1.23,<2" "onnxruntime>=1.32,<2" "onnxscript>=0.7,<1"
PLAYWRIGHT := "playwright>=1.65,<2"
EXTRAS := simulators quantize onnx openenv ray demo browser docs

.PHONY: extras
extras: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[$(SIMULATORS),quantize,openenv,ray,demo,docs]" $(ONNX) $(PLAYWRIGHT)
	@touch $(EXTRAS:%=$(VENV)/%.stamp)

# Those of the supported Pythons that are here. pyenv shows its own by, as an example, PYENV_VERSION=3.11.7:3.12.1:3.13.0.
PYTHONS = $(foreach minor,11 12 13,$(shell python3.$(minor) -c 'print("python3.$(minor)")' 2> /dev/null))

.PHONY: test-wheel
test-wheel: $(VENV)/torch.stamp ## build the wheel, and predict from it in an empty environment of each Python that is here
	rm -rf $(VENV)/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(VENV)/wheel .
	set -e; for python in $(PYTHONS); do \
	  $$python -m venv $(VENV)/wheel/$$python; \
	  (cd $(VENV)/wheel/$$python; bin/python -m pip install --quiet "torch==2.13.0"; \
	    bin/python -m pip install --quiet ../*.whl; bin/python --version; bin/ivideogpt --version; bin/ivideogpt predict); \
	done

$(VENV)/simulators.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[$(SIMULATORS)]"
	@touch $@

.PHONY: test-simulators
test-simulators: $(VENV)/simulators.stamp ## test the simulators; needs EGL (Debian: libegl1 libegl-mesa0)
	$(BIN)/python -m pytest tests/simulators tests/planning/test_tasks.py

$(VENV)/quantize.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[quantize]"
	@touch $@

.PHONY: test-quantize
test-quantize: $(VENV)/quantize.stamp ## test quantised weights
	$(BIN)/python -m pytest tests/checkpoints tests/decoding/test_plain.py tests/test_benchmarks.py -k 'quantised or options'

# transformers' tests of models are in its source distribution only.
$(VENV)/common.stamp: $(VENV)/dev.stamp
	rm -rf $(VENV)/common
	mkdir -p $(VENV)/common/source
	$(BIN)/python -m pip install --quiet "parameterized>=0.9,<1"
	$(BIN)/python -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: --dest $(VENV)/common \
	  "transformers==$$($(BIN)/python -c 'import transformers; print(transformers.__version__)')"
	tar -xzf $(VENV)/common/transformers-*.tar.gz -C $(VENV)/common/source --strip-components 1
	mv $(VENV)/common/source/tests $(VENV)/common/transformers_tests
	touch $(VENV)/common/transformers_tests/__init__.py
	rm -rf $(VENV)/common/source $(VENV)/common/transformers-*.tar.gz
	@touch $@

# Their marks are declared in transformers' own settings, so ours, which are strict about marks, are left out.
.PHONY: test-common
test-common: $(VENV)/common.stamp ## run transformers' own tests of models on ours
	PYTHONPATH=$(VENV)/common $(BIN)/python -m pytest -o addopts=-q --numprocesses auto --maxprocesses 8 tests/models/test_common.py

$(VENV)/onnx.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet $(ONNX)
	@touch $@

.PHONY: test-onnx
test-onnx: $(VENV)/onnx.stamp ## test the networks' parts as ONNX programs
	$(BIN)/python -m pytest tests/models/test_export.py

$(VENV)/openenv.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[openenv]"
	@touch $@

.PHONY: test-openenv
test-openenv: $(VENV)/openenv.stamp ## test a published checkpoint as an environment of OpenEnv
	$(BIN)/python -m pytest tests/serving/test_openenv.py

$(VENV)/ray.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[ray]"
	@touch $@

.PHONY: test-ray
test-ray: $(VENV)/ray.stamp ## test replicas and tasks on Ray, which it starts on this machine
	$(BIN)/python -m pytest tests/cli/test_ray.py

# LeRobot needs other versions of torch, numpy and huggingface_hub than this package, and Python 3.12. pyenv shows its own
# as above.
LEROBOT_PYTHON ?= python3.12
$(VENV)/lerobot.stamp: $(VENV)/dev.stamp
	$(LEROBOT_PYTHON) -m venv $(VENV)/lerobot
	$(VENV)/lerobot/bin/python -m pip install --quiet "torch==2.13.0"
	$(VENV)/lerobot/bin/python -m pip install --quiet "lerobot[dataset,evaluation]>=0.6.1,<0.7"
	@touch $@

.PHONY: test-lerobot
test-lerobot: $(VENV)/lerobot.stamp ## test env.py in LeRobot's hands, in an environment of its own (needs Python 3.12)
	LEROBOT_PYTHON=$(VENV)/lerobot/bin/python $(BIN)/python -m pytest tests/serving/test_env_hub.py

$(VENV)/demo.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	@touch $@

.PHONY: demo
demo: $(VENV)/demo.stamp ## play with the embedded model in the browser
	$(BIN)/ivideogpt play

$(VENV)/browser.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet $(PLAYWRIGHT)
	@touch $@

.PHONY: test-browser
test-browser: $(VENV)/browser.stamp ## test the playground in headless Chromium (Debian: chromium); writes outputs/screenshots
	$(BIN)/python -m pytest tests/spaces tests/test_benchmarks.py -k 'spaces or demo'

$(VENV)/docs.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

.PHONY: docs
docs: $(VENV)/docs.stamp ## build the site into build/site, and check links and prose; needs no network
	$(BIN)/python -m scripts.site_pages build/docs
	$(BIN)/python scripts/check_prose.py README.md CONTRIBUTING.md docs benchmarks/README.md configs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

$(VENV)/tutorials.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet "jupytext>=1.19,<2" "nbclient>=0.10,<1" "ipykernel>=7,<8"
	@touch $@

.PHONY: tutorials
tutorials: $(VENV)/tutorials.stamp ## run the tutorials, and store their pictures and notebooks in docs/tutorials
	$(BIN)/python -m scripts.tutorials

.PHONY: docs-serve
docs-serve: docs ## show the site at http://127.0.0.1:8000; `python -m scripts.site_pages build/docs` takes in changes
	$(BIN)/python -m mkdocs serve

.PHONY: format
format: $(VENV)/dev.stamp ## format, and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/train.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[train,eval]"
	@touch $@

.PHONY: finetune-example
finetune-example: $(VENV)/simulators.stamp $(VENV)/train.stamp ## fine-tune the embedded checkpoint on a new task
	$(BIN)/ivideogpt collect metaworld/window-close datasets/window-close --num-episodes 20 --num-frames 51 \
	  --action-repeat 2 --test-fraction 0.2 --noise 0.4 --noise-fraction 0.67 --seed 0
	$(BIN)/python examples/finetune.py datasets/window-close outputs/window-close

.PHONY: bench
bench: $(VENV)/browser.stamp $(VENV)/quantize.stamp ## run the benchmarks; leave the machine alone meanwhile
	$(BIN)/python benchmarks/imports.py --output benchmarks/results/imports.json
	$(BIN)/python benchmarks/rollout.py --output benchmarks/results/rollout.json
	$(BIN)/python benchmarks/options.py --output benchmarks/results/options.json
	$(BIN)/python benchmarks/decoding.py --output benchmarks/results/decoding.json
	$(BIN)/python benchmarks/data.py --output benchmarks/results/data.json
	$(BIN)/python benchmarks/training.py --output benchmarks/results/training.json
	$(BIN)/python benchmarks/training.py --dtype bfloat16 --output benchmarks/results/training_bfloat16.json
	$(BIN)/python benchmarks/planning.py --output benchmarks/results/planning.json
	$(BIN)/python benchmarks/demo.py --output benchmarks/results/demo.json
	$(BIN)/python benchmarks/serving.py --output benchmarks/results/serving.json

.PHONY: bench-compare
bench-compare: $(VENV)/dev.stamp ## compare the speed with another commit's: BASE=COMMIT (main)
	$(BIN)/python benchmarks/compare.py $(or $(BASE),main)

.PHONY: bench-gpu
bench-gpu: $(VENV)/dev.stamp ## measure on a GPU, in at most 8 minutes; writes outputs/gpu
	$(BIN)/python benchmarks/gpu.py --output outputs/gpu/gpu.json

.PHONY: soak
soak: $(VENV)/dev.stamp ## 15 minutes of a server with 64 clients, kills and bombs; SOAK="--minutes 5" for less
	$(BIN)/python benchmarks/soak.py --output benchmarks/results/soak.json $(SOAK)

.PHONY: clean
clean: ## remove the virtual environment and everything made
	rm -rf $(VENV) outputs build dist .pytest_cache .ruff_cache .mypy_cache

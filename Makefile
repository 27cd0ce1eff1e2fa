# Developer commands; `make help` lists them. Everything happens in .venv, which is made where it does not exist.
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
$(VENV)/dev.stamp: $(VENV)/package.stamp
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps "stable-worldmodel==0.1.1"
	@touch $@

.PHONY: predict
predict: $(VENV)/package.stamp ## predict real video with the embedded model; writes outputs/prediction.gif
	$(BIN)/ivideogpt predict

.PHONY: test
test: $(VENV)/dev.stamp ## check lint and format, and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --ignore tests/spaces/test_browser.py

$(VENV)/simulators.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[data,metaworld,robodesk,pusht]"
	@touch $@

.PHONY: test-simulators
test-simulators: $(VENV)/simulators.stamp ## test the simulators; needs EGL (Debian: libegl1 libegl-mesa0)
	$(BIN)/python -m pytest tests/simulators

$(VENV)/quantize.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[quantize]"
	@touch $@

.PHONY: test-quantize
test-quantize: $(VENV)/quantize.stamp ## test quantised weights
	$(BIN)/python -m pytest tests/checkpoints/test_loading.py -k quantised

$(VENV)/demo.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	@touch $@

.PHONY: demo
demo: $(VENV)/demo.stamp ## play with the embedded model in the browser
	$(BIN)/ivideogpt play

$(VENV)/browser.stamp: $(VENV)/demo.stamp
	$(BIN)/python -m pip install --quiet "playwright>=1.65,<2"
	@touch $@

.PHONY: test-browser
test-browser: $(VENV)/browser.stamp ## test the playground in headless Chromium (Debian: chromium); writes outputs/screenshots
	$(BIN)/python -m pytest tests/spaces

.PHONY: format
format: $(VENV)/dev.stamp ## format, and fix what lint can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Data sets by seeds, as configs/data/ mixes them. Half of the episodes follow the expert, most of them with noise: from
# experts alone a model could guess the action from the frames, and ignore it. Each goes on where it stopped.
COLLECT := $(BIN)/ivideogpt collect
METAWORLD_TASKS := button-press-topdown-wall plate-slide hammer door-lock handle-pull-side coffee-push reach push drawer-open
PLANNING_TASKS := reach handle-press coffee-button button-press handle-press-side drawer-close
ROBODESK_TASKS := push_red push_green push_blue
NOISY := --noise 0.4 --noise-fraction 0.67 --seed 0
RANDOM := --policy random --seed 100000

# Of each task: folder, task, episodes of the expert, episodes of random actions.
define COLLECT_METAWORLD
$(COLLECT) metaworld/$(2) datasets/$(1)/$(2)-expert --num-episodes $(3) --num-frames 51 --action-repeat 2 $(NOISY)
$(COLLECT) metaworld/$(2) datasets/$(1)/$(2)-random --num-episodes $(4) --num-frames 51 --action-repeat 2 $(RANDOM)

endef

.PHONY: collect-metaworld
collect-metaworld: $(VENV)/simulators.stamp ## make datasets/metaworld from seeds
	$(foreach task,$(METAWORLD_TASKS),$(call COLLECT_METAWORLD,metaworld,$(task),200,100))

.PHONY: collect-metaworld-planning
collect-metaworld-planning: $(VENV)/simulators.stamp ## make datasets/metaworld-planning from seeds
	$(foreach task,$(PLANNING_TASKS),$(call COLLECT_METAWORLD,metaworld-planning,$(task),120,60))

.PHONY: collect-robodesk
collect-robodesk: $(VENV)/simulators.stamp ## make datasets/robodesk from seeds
	set -e; for task in $(ROBODESK_TASKS); do \
	  $(COLLECT) robodesk/$$task datasets/robodesk/$$task-expert --num-episodes 60 --num-frames 36 $(NOISY); \
	  $(COLLECT) robodesk/$$task datasets/robodesk/$$task-random --num-episodes 30 --num-frames 36 $(RANDOM); \
	done

.PHONY: collect-pusht
collect-pusht: $(VENV)/simulators.stamp ## make datasets/pusht from seeds
	$(COLLECT) pusht datasets/pusht/expert --num-episodes 400 --size 32 $(NOISY)
	$(COLLECT) pusht datasets/pusht/random --num-episodes 200 --size 32 $(RANDOM)

.PHONY: collect-push2d
collect-push2d: $(VENV)/dev.stamp ## make datasets/push2d from seeds
	$(COLLECT) push2d datasets/push2d/expert --num-episodes 3000 --num-frames 21 --size 32 --noise 0.5 --noise-fraction 0.8 --seed 0
	$(COLLECT) push2d datasets/push2d/random --num-episodes 3000 --num-frames 21 --size 32 $(RANDOM)

$(VENV)/train.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --editable ".[train,eval]"
	@touch $@

# Needs LPIPS's weights, named in IVIDEOGPT_LPIPS_WEIGHTS: a safetensors file, or owner/name/file.safetensors on the Hub.
.PHONY: train-default
train-default: $(VENV)/train.stamp ## train the embedded checkpoint on datasets/metaworld; goes on where it stopped
	$(BIN)/ivideogpt train-vq --config configs/default_vq_l1.yaml --resume latest
	$(BIN)/ivideogpt train-vq --config configs/default_vq.yaml --resume latest
	$(BIN)/ivideogpt tokenize --config configs/default_first_tokens.yaml
	$(BIN)/ivideogpt train --config configs/default_first.yaml --resume latest
	$(BIN)/ivideogpt tokenize --config configs/default_tokens.yaml
	$(BIN)/ivideogpt train --config configs/default.yaml --resume latest
	$(BIN)/python scripts/embed_default.py outputs src/ivideogpt_hf/default
	$(BIN)/ivideogpt evaluate src/ivideogpt_hf/default configs/data/metaworld.yaml --root datasets --num-clips 108 \
	  --temperature 0.5 --output outputs/default_evaluation --record
	cp outputs/default_evaluation/curves.png docs/default.png

# Small models to plan in: push2d, metaworld, metaworld_short, pusht, robodesk. Where the processor has bf16 instructions,
# PRECISION=bf16 makes the transformer's updates twice as fast.
PRECISION ?= no
train-%: configs/planning/%.yaml $(VENV)/train.stamp ## train a model to plan in, of configs/planning
	$(BIN)/ivideogpt train-vq --config configs/planning/$*_vq.yaml --resume latest
	$(BIN)/ivideogpt tokenize --config configs/planning/$*_tokens.yaml
	$(BIN)/ivideogpt train --config $< --resume latest --mixed_precision $(PRECISION)

PLAN := $(BIN)/ivideogpt plan
ICEM := --planner icem --num-candidates 32 --num-iterations 2 --temperature 0.5 --dtype bfloat16

.PHONY: plan-push2d
plan-push2d: $(VENV)/train.stamp ## plan in outputs/push2d
	$(PLAN) push2d --checkpoint outputs/push2d --output outputs/plan_push2d --num-steps 20 $(ICEM)

# Task, model, instances, actions of each.
define PLAN_METAWORLD
$(PLAN) metaworld/$(1) --checkpoint outputs/$(2) --output outputs/plan_$(1) --num-instances $(3) --num-steps $(4) --action-repeat 2 --replan-every 2 $(ICEM)

endef

.PHONY: plan-metaworld
plan-metaworld: $(VENV)/simulators.stamp $(VENV)/train.stamp ## plan in outputs/metaworld and outputs/metaworld_short
	$(call PLAN_METAWORLD,handle-press,metaworld,50,24)
	$(call PLAN_METAWORLD,coffee-button,metaworld,30,24)
	$(call PLAN_METAWORLD,drawer-close,metaworld_short,30,16)

.PHONY: plan-pusht
plan-pusht: $(VENV)/simulators.stamp $(VENV)/train.stamp ## plan in outputs/pusht
	$(PLAN) pusht --checkpoint outputs/pusht --output outputs/plan_pusht --num-steps 25 --replan-every 3 --std 100 $(ICEM)

# Few candidates and plans: the simulator, which is the ceiling, takes 0.1 seconds an action.
.PHONY: plan-robodesk
plan-robodesk: $(VENV)/simulators.stamp $(VENV)/train.stamp ## plan in outputs/robodesk
	set -e; for task in $(ROBODESK_TASKS); do \
	  $(PLAN) robodesk/$$task --checkpoint outputs/robodesk --output outputs/plan_$$task --num-steps 15 --replan-every 5 \
	    --objective rewards --planner icem --num-candidates 16 --num-iterations 1 --horizon 5 --temperature 0.5 --dtype bfloat16; \
	done

.PHONY: finetune-example
finetune-example: $(VENV)/simulators.stamp $(VENV)/train.stamp ## fine-tune the embedded checkpoint on a new task
	$(COLLECT) metaworld/drawer-close datasets/drawer-close --num-episodes 20 --num-frames 51 --action-repeat 2 \
	  --test-fraction 0.2 $(NOISY)
	$(BIN)/python examples/finetune.py datasets/drawer-close outputs/drawer-close

.PHONY: bench
bench: $(VENV)/browser.stamp $(VENV)/quantize.stamp ## run the benchmarks; leave the machine alone meanwhile
	$(BIN)/python benchmarks/imports.py --output benchmarks/results/imports.json
	$(BIN)/python benchmarks/rollout.py --output benchmarks/results/rollout.json
	$(BIN)/python benchmarks/options.py --output benchmarks/results/options.json
	$(BIN)/python benchmarks/data.py --output benchmarks/results/data.json
	$(BIN)/python benchmarks/training.py --output benchmarks/results/training.json
	$(BIN)/python benchmarks/training.py --dtype bfloat16 --output benchmarks/results/training_bfloat16.json
	$(BIN)/python benchmarks/planning.py --output benchmarks/results/planning.json
	$(BIN)/python benchmarks/demo.py --output benchmarks/results/demo.json

.PHONY: clean
clean: ## remove the virtual environment and everything made
	rm -rf $(VENV) outputs build dist .pytest_cache .ruff_cache

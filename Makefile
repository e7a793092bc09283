# Verbs only. Every verb prints the command that it runs, and that command works without make.
#
#   BUNDLE  folder under bundles/
#   WITH    overlays in the order of merging, such as WITH="data_msd preset_gpu"
#   ARGS    further settings, such as ARGS="--dataset_dir /data/task09 --max_epochs 3"
#   PYTHON  Python 3.10 to 3.12 for setup, if the first one found is not the right one

BUNDLE ?= kcbac_mmwhs
PY := .venv/bin/python
PYTEST := $(PY) -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-bundles test-slow lint fmt smoke train evaluate infer package

help: ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
setup: ## create .venv and install everything into it (other verbs do this first)
	@bash tools/setup_environment.sh
demo: setup ## train, evaluate and segment on generated hearts, without any download
	$(PY) tools/demo.py
test: setup ## all tests but the slow ones
	$(PYTEST)
test-bundles: setup ## only the tests that run a bundle's workflow
	$(PYTEST) -m "bundle and not slow and not gpu"
test-slow: setup ## only the tests that take minutes
	$(PYTEST) -m "slow and not gpu"
lint: setup ## check style, config format and spelling
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) tools/format_configs.py --check && .venv/bin/codespell
fmt: setup ## bring code and configs into form
	$(PY) -m ruff check --fix . && $(PY) -m ruff format . && $(PY) tools/format_configs.py
smoke: setup ## train BUNDLE for one short epoch: WITH=, ARGS="--dataset_dir ..."
	@$(PY) tools/bundle_command.py train "$(BUNDLE)" $(WITH) smoke -- $(ARGS)
train: setup ## train BUNDLE: WITH="data_msd ablate_cb", ARGS="--dataset_dir ..."
	@$(PY) tools/bundle_command.py train "$(BUNDLE)" $(WITH) -- $(ARGS)
evaluate: setup ## evaluate BUNDLE with the same WITH and ARGS as in training
	@$(PY) tools/bundle_command.py evaluate "$(BUNDLE)" $(WITH) -- $(ARGS)
infer: setup ## segment new images with BUNDLE: WITH= overlays of inference.json, ARGS="--dataset_dir ..."
	@$(PY) tools/bundle_command.py infer "$(BUNDLE)" $(WITH) -- $(ARGS)
package: setup ## pack BUNDLE and the package common into dist/
	$(PY) tools/package_bundle.py "$(BUNDLE)"

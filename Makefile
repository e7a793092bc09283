# Verbs only. Each one prints the command that it runs, and that command works without make.
#
#   BUNDLE  folder under bundles/
#   WITH    overlays in the order of merging, such as WITH="data_msd preset_gpu"
#   ARGS    further settings, such as ARGS="--dataset_dir /data/mmwhs --max_epochs 3"
#   TABLE   name of a published table (table)
#   NPROC   processes on this machine, one per GPU (train and evaluate)
#   PYTHON  Python 3.10 to 3.12 to build .venv on, if the first one found is not the right one

BUNDLE ?= kcbac_mmwhs
WITH ?=
ARGS ?=
TABLE ?=
NPROC ?= 1
PYTHON ?=

# What generates a small data set in the layout that each bundle trains on.
PHANTOM_kcbac_mmwhs := write_mmwhs --num_cases 5
PHANTOM_m2snet_polyp := write_polyp_pranet --num_test 2
PHANTOM_dmnet_kits := write_kits19 --num_cases 30
PHANTOM_skc_synapse := write_synapse
PHANTOM_crossdomain_liver := write_chaos --num_ct 9 --num_mr 9 --ct_slices 6 --mr_slices 6

SHELL := /bin/bash
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
RUN_BUNDLE := $(PY) tools/bundle_command.py
# Any Python that really runs may start the set-up; which one the project is built on is decided there.
FIND_PYTHON := for python in $(PYTHON) python3 python3.12 python3.11 python3.10 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && break; done

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-bundles test-slow lint fmt smoke train evaluate infer label table verify export package try

help: ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
setup: ## make .venv and install everything into it (the other verbs do this first)
	@$(FIND_PYTHON); "$$python" tools/setup_environment.py --python "$(PYTHON)"
demo: setup ## train, evaluate and segment generated hearts: the tutorial
	$(PY) tools/demo.py
test: setup ## all tests but the slow ones
	$(PYTEST) -n 2 --dist loadfile $(ARGS)
test-bundles: setup ## only the tests that run a bundle's workflow
	$(PYTEST) -n 2 --dist loadfile -m "bundle and not slow and not gpu" $(ARGS)
test-slow: setup ## only the tests that take minutes
	$(PYTEST) -m "slow and not gpu" $(ARGS)
lint: setup ## check style, form of the configs, spelling
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) tools/format_configs.py --check
	.venv/bin/codespell
fmt: setup ## bring code and configs into form
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) tools/format_configs.py
smoke: WITH = preset_laptop
smoke: setup ## two training steps of BUNDLE on generated images
	$(PY) -m common.data.phantoms $(PHANTOM_$(BUNDLE)) --dataset_dir demo/smoke/$(BUNDLE)/data
	@$(RUN_BUNDLE) train "$(BUNDLE)" $(WITH) smoke --processes $(NPROC) -- \
		--dataset_dir demo/smoke/$(BUNDLE)/data --output_dir demo/smoke/$(BUNDLE)/output \
		--model_dir demo/smoke/$(BUNDLE)/models $(ARGS)
train: setup ## train BUNDLE: WITH="data_msd ablate_cb", ARGS="--dataset_dir ...", NPROC=2
	@$(RUN_BUNDLE) train "$(BUNDLE)" $(WITH) --processes $(NPROC) -- $(ARGS)
evaluate: setup ## evaluate BUNDLE with the same WITH and ARGS as in training
	@$(RUN_BUNDLE) evaluate "$(BUNDLE)" $(WITH) --processes $(NPROC) -- $(ARGS)
infer: setup ## segment new images: WITH=as_trained, ARGS="--dataset_dir scan.nii.gz"
	@$(RUN_BUNDLE) infer "$(BUNDLE)" $(WITH) --processes $(NPROC) -- $(ARGS)
label: setup ## serve BUNDLE="kcbac_mmwhs ..." to viewers with MONAI Label: ARGS="--model_dir ... --studies ..."
	$(PY) -m tools.label_server $(BUNDLE) $(ARGS)
table: setup ## run a table of BUNDLE's paper: TABLE=3 (none: list them), ARGS="--dataset_dir ... --seeds 0 1"
	$(PY) -m tools.reproduce --bundle_dir "bundles/$(BUNDLE)" $(if $(TABLE),--table $(TABLE)) \
		$(if $(WITH),--with $(WITH)) $(ARGS)
verify: setup ## check BUNDLE, a name or any folder: metadata, network, properties, export, README
	$(PY) -m tools.verify_bundle --bundle_dir "$(firstword $(wildcard bundles/$(BUNDLE)) $(BUNDLE))" \
		$(if $(PHANTOM_$(BUNDLE)),--generate "$(PHANTOM_$(BUNDLE))" --shrink preset_laptop smoke) $(ARGS)
export: setup ## write the network of BUNDLE as TorchScript, ONNX and PT2 with a comparison: WITH=as_trained
	$(PY) -m tools.export_bundle --bundle_dir "bundles/$(BUNDLE)" --output_dir "dist/export/$(BUNDLE)" \
		$(if $(WITH),--with $(WITH)) $(ARGS)
package: setup ## pack BUNDLE and the package common into dist/: ARGS="--model_dir ..."
	$(PY) tools/package_bundle.py "$(BUNDLE)" $(ARGS)
try: setup ## try BUNDLE's package in a fresh environment: ARGS="--model_dir ... --image ... --transcript out.md"
	$(PY) -m tools.try_package "$(BUNDLE)" $(ARGS)

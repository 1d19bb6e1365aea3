# make install | demo | test | lint | figures | zoo | zoo-superresolve | clean
VENV := .venv
PYTHON ?= python3.11
STAMP := $(VENV)/.installed

.PHONY: install demo test lint figures zoo zoo-superresolve clean

install: $(STAMP)

# torch first and alone: any other order lets another package bring in a build with CUDA libraries.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV) 2>/dev/null || python3 -m venv $(VENV)
	grep -E '^torch==' requirements.lock > $(VENV)/torch.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/torch.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(STAMP)

demo: install
	$(VENV)/bin/snakemake --profile local

test: install
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check Snakefile rules
	$(VENV)/bin/pyright

# Measure all of docs/performance.md again, 15 minutes on an idle machine; BM4D=python of an environment that has the package bm4d.
figures: install
	$(VENV)/bin/python -m benchmarks.tables --run $(if $(BM4D),--bm4d $(BM4D))

# Train the shipped weights again (hours): the workflow's own rules on simulated heads, see zoo/train.yaml; the denoisers also on the
# real scans of SCANS, where that folder is there.
SCANS ?= ../shared/data
MODELS := build/zoo/work/models
zoo: install
	$(VENV)/bin/snakemake --profile local --set-threads train=1 --configfile zoo/train.yaml -- $(addprefix $(MODELS)/,superresolve regseg classify)
	for pair in superresolve/srcnn3d regseg/heads classify/heads; do \
		rm -rf zoo/$$pair && mkdir -p zoo/$$pair && cp $(MODELS)/$${pair%%/*}/* zoo/$$pair/; done
	$(VENV)/bin/snakemake --profile local --configfile zoo/calibrate.yaml
	$(VENV)/bin/python -m cohortex.training.recalibrate zoo/classify/heads build/zoo/calibrate/work
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m cohortex.training.zoo_mr --folder zoo/denoise/frame_unet $(if $(wildcard $(SCANS)),--scans $(SCANS))
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m cohortex.training.zoo_ct --folder zoo/denoise/low_dose $(if $(wildcard $(SCANS)),--scans $(SCANS))

# The shipped super-resolution network, 20 minutes of one core: from simulated heads and real scans, whose folder is SCANS (../shared/data).
zoo-superresolve: install
	$(VENV)/bin/python -m cohortex.training.zoo_superresolve --folder zoo/superresolve/subslice $(if $(SCANS),--scans $(SCANS))

clean:
	rm -rf work results .snakemake

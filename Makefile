# make install | demo | test | lint | docs | lock | audit | figures | zoo | zoo-superresolve | clean
VENV := .venv
PYTHON ?= python3.11
STAMP := $(VENV)/.installed

.PHONY: install demo test lint docs lock audit figures zoo zoo-superresolve clean

install: $(STAMP)

# torch first and alone: any other order lets another package bring in a build with CUDA libraries. It is the one package whose file may
# differ from the index's that the hashes are of (a build for the CPU, or for one version of CUDA), so its hash is not asked for; all
# others are installed only if their file is one that the lock knows. Last come the libraries that a build with CUDA asks for.
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV) 2>/dev/null || python3 -m venv $(VENV)
	grep -oE '^torch==[^ ]+' requirements.lock > $(VENV)/torch.txt
	$(PIP) install --no-deps -r $(VENV)/torch.txt
	$(PIP) install --no-deps --require-hashes -r requirements.lock
	$(PIP) install -r $(VENV)/torch.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $(STAMP)

# The hashes of the lock anew, of all files of every release (any platform), for the versions that stand in it: after a pin was changed or
# a line `name==version` added. And what is known against those versions; it fails too where its database cannot be asked.
TOOLS := build/tools
$(TOOLS)/bin/uv $(TOOLS)/bin/pip-audit:
	$(PYTHON) -m venv $(TOOLS) 2>/dev/null || python3 -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check --quiet install uv pip-audit

lock: $(TOOLS)/bin/uv
	grep -oE '^[A-Za-z0-9._-]+==[^ ]+' requirements.lock > $(TOOLS)/pins.txt
	$(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-deps --generate-hashes --no-annotate --no-header \
		$(TOOLS)/pins.txt --output-file requirements.lock

audit: $(TOOLS)/bin/pip-audit
	$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

demo: install
	$(VENV)/bin/snakemake --profile local

test: install
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/snakefmt --check Snakefile rules
	$(VENV)/bin/pyright

# The pages of docs/ as a site in site/, which asks no network for anything; broken links and anchors, and a reference of the
# configuration that is not what config.yaml and schemas/ say, are errors.
docs: install
	$(VENV)/bin/python -m cohortex.config_reference --check
	$(VENV)/bin/python -m mkdocs build --strict

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
	rm -rf work results site .snakemake

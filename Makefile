# Each target does whatever set-up is missing first. DUPLET_PYTHON names the Python 3.11 to build .venv from.
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
ROOT ?= runs
export ROOT
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup setup-gpu demo test test-jobs test-null-gpu test-airflow test-serve test-image check coverage docs notebooks settings architecture fuzz bench bench-data bench-passages first-minutes bench-memory search-engine torture rehearsal torture-index torture-first-command load-search sbom audit ui lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-22s %s\n", $$1, $$2 }' Makefile

setup:  ## .venv from requirements.txt; nothing when it is current
	@bash docker/setup.sh

setup-gpu:  ## .venv-gpu: MXNet for NVIDIA GPUs, Horovod with NCCL; CUDA=cu112 for CUDA 11.2; needs CUDA 11, cuDNN 8 and NCCL 2
	@DUPLET_MXNET=$(or $(CUDA),cu117) bash docker/setup.sh .venv-gpu

demo: setup  ## query-document matching on real text, from source code to report, in about five minutes
	@$(BIN)/duplet run configs/demo.yaml

search-engine: setup  ## clicks and pages made up, then configs/search_engine.yaml from WARC files to an index: some minutes
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/search_engine.py search_engine $(OVERRIDES)

bench-data: setup  ## rates of ingest, pages, clicks and tokenization, processes beside Dask, files opened, start at 10^8 pairs
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/data_rates.py

test: setup  ## the tests, offline, but for those of test-jobs; three files at a time, as many of them wait
	@$(PYTEST) -m "not jobs and not null_gpu" $(PYTEST_ARGS)

test-jobs: setup  ## whole jobs under the supervisor, a real SLURM, a cron daemon, on two network namespaces: where there is one
	@$(PYTEST) -m jobs $(PYTEST_ARGS)

test-null-gpu: setup  ## a GPU that computes nothing: MXNet's CUDA wheel (0.5 GB, downloaded once) over libraries of our own
	@$(BIN)/python tests/null_gpu/build.py
	@LD_LIBRARY_PATH=$(CURDIR)/.null_gpu/lib PYTHONPATH=$(CURDIR)/.null_gpu/site MXNET_GPU_MEM_POOL_TYPE=Unpooled \
		$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m null_gpu tests/null_gpu $(PYTEST_ARGS)

test-airflow: setup  ## a schedule's DAG, loaded and run once by the real Airflow, in an environment of its own
	@bash tests/jobs/airflow_dag.sh

test-serve: setup  ## models that MLflow logged, in environments made of their own requirements alone; needs a network
	@bash tests/serving/elsewhere.sh

test-image:  ## docker/Dockerfile built with buildah on a Debian 12 made for it; needs root and about 8 GB
	@bash docker/test_image.sh

check: setup  ## ruff, type checker, import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

coverage: setup  ## the lines that tests and what they start do not run; TESTS="tests/config tests/ingest" for some of them
	@bash docker/coverage.sh $(TESTS)

docs:  ## docs/ as a site in .site/; a dead link fails; the tools live in .docs, made once
	@[ -x .docs/bin/mkdocs ] || $(or $(DUPLET_PYTHON),python3.11) -m venv .docs
	@.docs/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r docker/requirements-docs.txt
	@NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --quiet --strict --config-file .mkdocs.yml && echo "docs: .site/index.html"

notebooks: setup  ## runs docs/notebooks, over a small demo; nothing is written into them; the tools live in .notebooks
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes --upgrade \
		--target .notebooks/lib -r docker/requirements-notebooks.txt
	@MPLBACKEND=agg PYTHONPATH=$(CURDIR)/.notebooks/lib:$(CURDIR) $(CURDIR)/$(BIN)/python -c "from nbclient.cli import main; main()" --timeout 1800 \
		docs/notebooks/*.ipynb && echo "notebooks: all ran"

settings: setup  ## docs/settings.md anew from the models of the configuration
	@$(BIN)/duplet config explain --markdown > docs/settings.md

architecture: setup  ## rooms, floors and arrows of the code, as docs/architecture.md shows them
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/architecture.py

fuzz: setup  ## INPUTS (100,000) damaged inputs, guided by coverage, to every reader and loader; about 15 minutes
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes --upgrade \
		--target .fuzz/lib -r tests/fuzz/requirements.txt
	@PYTHONPATH=.fuzz/lib:. $(BIN)/python -m tests.fuzz.run $(TARGETS)

bench: setup  ## speed and quality beside sentence-transformers, in an environment of its own
	@bash benchmarks/setup_peer.sh
	@$(BIN)/python benchmarks/training_speed.py
	@$(BIN)/python benchmarks/encoding_speed.py

torture: setup  ## kills trainings KILLS times (100) at random moments: the outcome must not differ by a bit
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/torture.py --kills $(or $(KILLS),100)

rehearsal: setup  ## thirty nights of a schedule with all that goes wrong, clock moved: champions, messages and disk must be right
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/rehearsal.py $(if $(FOLDER),--folder $(FOLDER))

torture-index: setup  ## kills `duplet index` KILLS times (1,000) at random moments: the old index or the new one is left
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/index_torture.py --kills $(or $(KILLS),1000)

torture-first-command: setup  ## kills the first command of a new root KILLS times (100) while MLflow's database is made
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/first_command_kills.py --kills $(or $(KILLS),100)

load-search: setup  ## 20,000 requests to a search server, and others beside 2,000 half ones
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/server_load.py

bench-passages: setup  ## an index of PASSAGES (100,000) made-up passages beside bm25s and faiss: memory, seconds, size, speed
	@$(BIN)/python benchmarks/many_passages.py --passages $(or $(PASSAGES),100000)

first-minutes: setup  ## 1,000 documents to a page that answers, untrained and trained, by three commands: some minutes
	@PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/first_minutes.py

bench-memory: setup  ## peak memory of each stage over 100,000 and 1,000,000 records; about 15 minutes and 4 GB of disk
	@$(BIN)/python benchmarks/memory.py

sbom: setup  ## sbom.cdx.json: what is installed, as a CycloneDX bill of materials
	@bash docker/audit.sh sbom

audit: setup  ## the installed packages against the advisories of PyPI's database, which must be reachable
	@bash docker/audit.sh advisories

ui: setup  ## MLflow's pages over the runs under ROOT (default runs), on the loopback
	@$(BIN)/duplet ui --root "$$ROOT"

lock: setup  ## requirements.txt anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --extra train --extra dev --extra pages --extra dask --extra documents --extra teach --extra vectors --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header -o requirements.txt

clean:  ## caches and built packages; leaves .venv and the runs
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find pipeline jobs tests benchmarks -name __pycache__ -type d -exec rm -rf {} +

# The two commands a new machine needs: `make demo` and `make test`. Each makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DATA ?= ../shared/data
WORDS = $(foreach set,awsdocs-3k squad11-dev scifact cosqa chunking-evaluation xquad/en,$(DATA)/$(set)/corpus.jsonl)
QUESTIONS = $(foreach set,awsdocs-3k squad11-dev scifact cosqa,$(DATA)/$(set)/queries.jsonl)
LARGE = $(WORDS) --queries $(QUESTIONS) --keep .bench

.PHONY: demo test test-llama-index check format evals bench soak clean

demo: .venv/demo
	HF_HUB_OFFLINE=1 $(BIN)/python examples/python_docs.py

test: .venv/dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

# The LlamaIndex package on both versions of core that it is for, each in an environment of its own without torch.
test-llama-index: .venv/llama-index-0.13 .venv/llama-index-0.14
	cd integrations/llama-index && HF_HUB_OFFLINE=1 ../../.venv/llama-index-0.13/bin/python -m pytest
	cd integrations/llama-index && HF_HUB_OFFLINE=1 ../../.venv/llama-index-0.14/bin/python -m pytest

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd integrations/llama-index && ../../$(BIN)/mypy
	$(BIN)/lint-imports
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Retrieval quality on BEIR folders; DATA names the folder that holds them.
evals: .venv/dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m evals.run $(DATA)/scifact --results evals/results
	HF_HUB_OFFLINE=1 $(BIN)/python -m evals.run $(DATA)/squad11-dev --results evals/results
	HF_HUB_OFFLINE=1 $(BIN)/python -m evals.run $(DATA)/awsdocs-3k --chunked --results evals/results
	$(BIN)/python -m evals.tables
	HF_HUB_OFFLINE=1 $(BIN)/python -m evals.prefix $(DATA)/scifact $(DATA)/squad11-dev --json evals/results/prefix.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m evals.fusions $(DATA)/scifact $(DATA)/squad11-dev $(DATA)/cosqa $(DATA)/xquad/en \
		$(DATA)/chunking-evaluation $(DATA)/awsdocs-3k --chunked awsdocs-3k --json evals/results/fusions.json
	HF_HUB_OFFLINE=1 $(BIN)/python -m evals.chunkers $(DATA)/chunking-evaluation --json evals/results/chunkers.json

# Speed against peers in one run; see benchmarks/README.md.
bench: .venv/bench
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.chunking $(DATA)/awsdocs-3k/corpus.jsonl
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.encoder --runtimes
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.latency --runtimes
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.rerank
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.ingest $(DATA)/awsdocs-3k/corpus.jsonl --limit-chunks 1000
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.query $(DATA)/awsdocs-3k/corpus.jsonl
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.reading $(DATA)/awsdocs-3k/corpus.jsonl --queries $(DATA)/squad11-dev/queries.jsonl
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.freshness $(DATA)/awsdocs-3k/corpus.jsonl
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.edits $(DATA)/fastapi-docs
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.unchanged
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.plan
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.scale $(DATA)/awsdocs-3k/corpus.jsonl $(DATA)/scifact/corpus.jsonl --sizes 10000 30000 100000
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.serving $(DATA)/awsdocs-3k/corpus.jsonl
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.llama_index $(DATA)/awsdocs-3k
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.bm25 $(LARGE)
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.hybrid $(LARGE)
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.cold $(LARGE)
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.first_pass
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.slope
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.frameworks $(DATA)/awsdocs-3k/corpus.jsonl

# Random histories against the laws of freshness, with fuses everywhere; and 200 killed syncs with the real model.
soak: .venv/dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.freshness.soak --histories 1000 --steps 50
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.kills --kills 200

clean:
	rm -rf .venv .bench .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.tarragon

.venv/python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[bundled]'
	touch $@

.venv/bench: .venv/dev
	$(PIP) --editable '.[dev,bench]' --editable integrations/llama-index
	touch $@

.venv/llama-index-%: integrations/llama-index/pyproject.toml pyproject.toml constraints.txt
	$(PYTHON) -m venv $@
	grep -v '^llama-index' constraints.txt > $@/constraints.txt
	$@/bin/python -m pip install --quiet --disable-pip-version-check --constraint $@/constraints.txt \
		--editable . --editable 'integrations/llama-index[test]' 'llama-index-core==$*.*'
	touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt integrations/llama-index/pyproject.toml
	$(PIP) --editable '.[dev]' --editable integrations/llama-index
	touch $@ .venv/demo

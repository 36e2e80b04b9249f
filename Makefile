# What a person and CI run. Every target first sets up what it needs, quickly when nothing changed.
#   make demo ARGS=--help            more words for the command
#   make test PYTHON=python3.13      another interpreter
#   make demo TORCH_INDEX=URL        another package index for torch (its CPU builds, say)
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-vllm check docs format clean setup-demo setup-dev setup-vllm

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: setup-demo ## run the whole job with small models: cold start, rollouts, distillation, evaluation
	@$(BIN)/sod demo $(ARGS)

test: setup-dev ## run all tests
	@$(BIN)/python -m pytest $(ARGS)

test-fast: setup-dev ## run all tests but the slow ones
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-vllm: setup-vllm ## run the tests of vLLM, in an environment of their own (3.4 GB)
	@.venv-vllm/bin/python -m pytest -m vllm $(ARGS)

check: setup-dev ## lint, formatting, types, layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

docs: setup-dev ## build the documentation into build/site, strictly
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: setup-dev ## rewrite the source as `make check` wants it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove the environment and all caches; runs/ stays
	rm -rf .venv .venv-vllm build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

setup-demo:
	@bash scripts/setup.sh report

setup-dev:
	@bash scripts/setup.sh dev

setup-vllm:
	@bash scripts/setup.sh vllm

# Two commands set the project up: `make up`, `make test`. `make help` lists all.
PYTHON ?= python3
BIN := .venv/bin
# Shell scripts by their first line, whatever they are called; recorded output has such lines too.
SHELL_SCRIPTS = git grep -lIE --untracked '^\#!(/usr)?/bin/(env )?(ba)?sh$$' -- ':!*.txt'
QUICK_TESTS = $(filter-out tests/stack tests/stack/ tests/claude tests/claude/ tests/bench tests/bench/ tests/soak tests/soak/ tests/fakes tests/fakes/ tests/conformance tests/conformance/ tests/clients tests/clients/,$(wildcard tests/*/))

# Most of these tests wait for a program; more of them than cores.
PARALLEL = -n 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help up install uninstall arm64 arm64-images stage down remove clean env logs status test test-fast check renew pin audit docs screenshots bench sim conformance soak image-proof engine tools tools-fast lint

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

up: ## start everything and wait until it is healthy; without a cluster in .env also a demo cluster and its model
	@$(PYTHON) -m setup up

install: ## put bouchet on the PATH (~/.local/bin), with completion
	@$(PYTHON) -m setup install

uninstall: ## remove what install made
	@$(PYTHON) -m setup uninstall

arm64: ## check that every lock but those of x86-64 images installs on Linux for arm64, as on a Mac; needs the package index
	@$(PYTHON) -m setup arm64

arm64-images: ## build every image for arm64 and start it, on Linux for x86-64 with qemu's emulator; all, or IMAGES="api worker"
	@$(PYTHON) -m setup arm64-images $(IMAGES)

stage: ## stage what an image build needs, for nodes without network: make stage PIN=... DIR=...
	@$(PYTHON) -m setup stage $(PIN) $(DIR)

down: ## stop everything, keep data
	@$(PYTHON) -m setup down

remove: ## stop everything; remove this stack's volumes and secret files (images and shared volumes stay)
	@$(PYTHON) -m setup remove

clean: ## stop everything; remove volumes, built images and staged files (.env stays)
	@$(PYTHON) -m setup clean

env: ## make .env if there is none, and check it
	@$(PYTHON) -m setup env

logs: ## follow what the containers say
	@$(PYTHON) -m setup logs

status: ## the state of each container
	@$(PYTHON) -m setup status

# Three runs: the quick tests side by side, the stack by itself, and the proxy with its LiteLLM in the image just built.
test: tools engine lint ## every test, the real stack included
	@$(BIN)/pytest $(PARALLEL) $(QUICK_TESTS)
	@$(BIN)/pytest --timeout 1800 -m "not long" tests/stack
	@BOUCHET_PROXY_IMAGE=bouchet/proxy:$${BOUCHET_IMAGE_TAG:-dev} $(BIN)/pytest tests/proxy/litellm

test-fast: tools-fast ## the tests that need no engine, without those marked slow (whole jobs and processes, long waits)
	@$(BIN)/pytest $(PARALLEL) --hypothesis-profile quick -m "not slow" $(QUICK_TESTS)

check: tools-fast lint ## ruff, mypy, import-linter, shellcheck

soak: tools engine ## the long runs: random kills, cancelled starts, a link cut under load, random requests
	@$(BIN)/python -m tests.soak

conformance: tools engine ## requests that clients send, against this proxy, vLLM and stock LiteLLM; then the real clients
	@$(BIN)/python -m tests.conformance

bench: tools engine ## measure the figures that the project aims at, beside others
	@$(BIN)/python -m tests.bench

image-proof: tools engine ## stage, build and verify GPU images on the demo cluster, and write times and sizes down: all, or PIN=...
	@$(BIN)/python -m tests.bench.image_proof $(PIN)

screenshots: tools ## renew the pictures of docs/dashboard.md, in the real browser
	@$(BIN)/python -m tests.browser.screenshots

sim: tools-fast ## simulate weeks of people and a queue: the policy beside others; renews the picture of docs/simulation.md
	@$(BIN)/python -m tests.sim --svg docs/simulation.svg

renew: ## renew every lock (packages, base images) to the newest that resolve, and print what changed
	@$(PYTHON) -m setup renew

pin: ## renew the lock of each image of one vLLM: make pin VLLM=0.32.0
	@$(PYTHON) -m setup pin $(VLLM)

audit: ## ask the public advisory databases about every locked package; optional, needs the internet
	@$(PYTHON) -m setup audit

docs: tools-fast ## renew what is made from the code: docs/cli.md, schemas/
	@$(BIN)/python -m bouchet_cli.reference docs/cli.md
	@$(BIN)/python -m bouchet_core.schemas schemas

engine:
	@$(PYTHON) -m setup engine

tools:
	@$(PYTHON) -m setup tools

tools-fast:
	@$(PYTHON) -m setup tools --fast

lint:
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(SHELL_SCRIPTS) | xargs shellcheck

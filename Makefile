# make demo            three nodes on this machine serve SmolLM2-135M-Instruct (93 MB, fetched once); talk to it
# make demo PROMPT=…   one answer, then everything is gone again
# make demo QUANTIZE=int4  the same with weights of a quarter of the size
# make demo MEMORY=tiny  three nodes that cannot keep the model together read layers from disk; see who does
# make demo WEB=1      the same with a page for the browser instead of the terminal; WEB=8081 on that port
# make demo MODEL=toy  the same with a toy of 2.5M parameters that is here already
# make test            format, lint, types, floors, tests, simulated swarms
# make test-long       the tests that take a minute each or fetch the real model
# make test-clients  programs that others wrote (lm-eval, llm, schemathesis) against a gateway; installs them into .venv-clients
# make simulate        SEEDS=200 histories of simulated swarms; SEED=17 replays one
# make demo-model      train and convert the demo model anew (minutes)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
INSTALLING := installing torch and what it needs into $(VENV): 1 to 6 GB, some minutes, once
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-long test-clients lint types floors pytest pytest-talking pytest-computing pytest-planning simulate format demo-model clean

demo: $(VENV)/installed
	@$(BIN)/python -m swarm.demo $(if $(MODEL),--model $(MODEL)) $(if $(QUANTIZE),--quantize $(QUANTIZE)) $(if $(MEMORY),--memory $(MEMORY)) $(if $(WEB),--web $(WEB)) $(if $(PROMPT),"$(PROMPT)")

SEEDS ?= 200

# What opens no ports runs beside the rest, of which most waits for something, and gives way to it; in two halves, for it takes longer.
computing := tests/decoder tests/falcon tests/llama
planning := tests/plan tests/sepweight tests/testing
ASIDE := GOMP_SPINCOUNT=10000 nice -n 19

test: lint types floors
	@$(MAKE) --no-print-directory --jobs 2 pytest-talking pytest-computing pytest-planning simulate

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/basedpyright

floors: $(VENV)/installed-dev
	$(BIN)/lint-imports

pytest: $(VENV)/installed-dev
	$(BIN)/python -m pytest

pytest-talking: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(computing:%=--ignore %) $(planning:%=--ignore %)

pytest-computing pytest-planning: pytest-%: $(VENV)/installed-dev
	@mkdir -p build
	@$(ASIDE) $(BIN)/python -m pytest $($*) > build/$*.log 2>&1; status=$$?; cat build/$*.log; exit $$status

test-long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m long --timeout 400

test-clients: $(VENV)/installed-dev $(CLIENTS)/installed
	$(BIN)/python -m pytest -m clients

simulate: $(VENV)/installed-dev
	$(ASIDE) $(BIN)/python -m swarm.testing $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo-model: $(VENV)/installed-dev
	rm -rf build/demo-checkpoint swarm/demo/model
	$(BIN)/python -m swarm.demo.train build/demo-checkpoint
	$(BIN)/swarm-weights convert build/demo-checkpoint swarm/demo/model --name swarm-demo

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml constraints.txt
	@test -e $@ || echo "$(INSTALLING)" >&2
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/python pyproject.toml constraints.txt
	@test -e $@ || echo "$(INSTALLING)" >&2
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/installed

$(CLIENTS)/installed: tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) build *.egg-info

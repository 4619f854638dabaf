PYTHON ?= python3
RUN := .venv/bin/python
OUT ?= runs/default

.PHONY: setup run test slow lint test-peers test-newest test-oldest bench figures gallery operations clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# A finished run is only shown again; an interrupted one goes on where it stopped.
run: setup
	@if [ -e $(OUT)/config.json ]; then .venv/bin/recurra train --out $(OUT) --resume; \
	else .venv/bin/recurra train --out $(OUT); fi

test: setup
	$(RUN) -m pytest -n 2

slow: setup
	$(RUN) -m pytest -n 2 -m slow

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Other implementations, at versions of their own choice: in an environment of their own, so that no other target sees them.
.venv-peers/ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet -c constraints.txt -e ".[dev]"
	.venv-peers/bin/pip install --quiet --no-deps -r benchmarks/requirements.txt
	touch $@

bench: .venv-peers/ready
	.venv-peers/bin/python -m benchmarks

test-peers: .venv-peers/ready
	.venv-peers/bin/python -m pytest -n 2

# Whatever is newest today, peers included.
test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev,peers]"
	.venv-newest/bin/python -m pytest -n 2

# The lower bounds of pyproject.toml.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python tests/oldest.py > .venv-oldest/requirements.txt
	.venv-oldest/bin/pip install --quiet -r .venv-oldest/requirements.txt -e .
	.venv-oldest/bin/python -m pytest -n 2

figures: setup
	$(RUN) docs/figures.py
	$(RUN) docs/forecast.py
	$(RUN) docs/data.py

gallery: setup
	$(RUN) docs/gallery.py

operations: setup
	$(RUN) docs/operations.py

clean:
	rm -rf .venv .venv-* build src/*.egg-info

PYTHON ?= python3
RUN := .venv/bin/python
OUT ?= runs/default

.PHONY: setup run test slow lint bench figures gallery clean

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

# Peers are installed beside the project; what is missing is left out of the tables.
bench: setup
	-.venv/bin/pip install --quiet --no-deps -r benchmarks/requirements.txt
	$(RUN) -m benchmarks

figures: setup
	$(RUN) docs/figures.py

gallery: setup
	$(RUN) docs/gallery.py

clean:
	rm -rf .venv build src/*.egg-info

PYTHON ?= python3
RUN := .venv/bin/python
OUT ?= runs/default

.PHONY: setup run labels forecasts test slow lint test-peers test-newest test-oldest bench figures gallery operations clean

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
	.venv-peers/bin/python -m benchmarks.own

test-peers: .venv-peers/ready
	.venv-peers/bin/python -m pytest -n 2

# Other libraries beside benchmarks.labels and benchmarks.forecasts, each in an environment of its own. Recbole's sees the PyTorch of this project,
# and has none of what recbole only needs to search for options.
PEER_neuralforecast := torch==2.13.0 neuralforecast==3.3.0 utilsforecast==0.2.17
PEER_aeon := aeon==1.6.0
PEER_crfsuite := sklearn-crfsuite==0.5.0
PEER_recbole := --no-deps recbole==1.2.1 cloudpickle==3.1.3 colorama==0.4.6 colorlog==6.12.0 joblib==1.6.0 narwhals==2.29.0 \
	pandas==2.3.3 psutil==7.2.2 python-dateutil==4.0.0 pytz==2026.6 pyyaml==6.0.4 scikit-learn==1.9.1 scipy==1.17.1 \
	six==1.17.0 tabulate==0.10.0 texttable==1.7.0 thop==0.1.1.post2209072238 threadpoolctl==3.8.0 tqdm==4.70.1

.venv-aeon/ready .venv-crfsuite/ready .venv-recbole/ready .venv-neuralforecast/ready: .venv-%/ready: | setup
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet $(PEER_$*)
	if [ $* = recbole ]; then $(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	> $$(echo .venv-$*/lib/python3.*/site-packages)/torch.pth; fi
	touch $@

labels: setup .venv-aeon/ready .venv-crfsuite/ready .venv-recbole/ready
	$(RUN) -m benchmarks.labels

# The holidays of the calendar are those of the library of that name.
forecasts: setup .venv-neuralforecast/ready
	.venv/bin/pip install --quiet holidays==0.109
	$(RUN) -m benchmarks.forecasts

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
	$(RUN) docs/families.py
	$(RUN) docs/forecast.py
	$(RUN) docs/data.py

gallery: setup
	$(RUN) docs/gallery.py

operations: setup
	$(RUN) docs/operations.py

clean:
	rm -rf .venv .venv-* build src/*.egg-info

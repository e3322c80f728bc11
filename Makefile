# Each target sets up what is missing. On Windows, or without make, see "Without make" in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint types contracts pytest ui soak bench clean browser

setup: $(STAMP)

# --no-deps: of open_clip_torch only its copy of CLIP's vocabulary is used.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -c constraints.txt open_clip_torch
	touch $(STAMP)

demo: $(STAMP)
	@out=runs/demo; n=2; while [ -e "$$out" ]; do out=runs/demo-$$n; n=$$((n + 1)); done; \
	$(BIN)/python -m trainers.dreambooth_lora --preset demo-character --output_dir $$out

test: $(STAMP) lint types contracts browser pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

# Debian and Ubuntu as root: install Chromium for the browser tests. Elsewhere they use one that is
# there, or are skipped with a word (never when CI is set).
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	&& echo "installing Chromium for the browser tests" \
	&& apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends chromium >/dev/null; } \
	|| echo "No Chromium: the browser tests will be skipped."

pytest: $(STAMP)
	$(BIN)/python -m pytest -m 'not big and not soak'

# Longer checks: every case of what the tests try some of, and true-size models with random weights
# (about 12 GB of memory and 10 GB of disk).
soak: $(STAMP)
	$(BIN)/python -m pytest -m 'big or soak'

bench: $(STAMP)
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.inference

ui: $(STAMP)
	$(BIN)/python app.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

# Two commands on a fresh machine: `make app` and `make test`. Everything lands in $(VENV).
VENV ?= .venv
PYTHON ?= python3
PY = $(VENV)/bin/python
ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
BENCHMARKS = $(sort $(wildcard tests/benchmarks/[a-z]*.py))

.PHONY: app test lint benchmarks system clean

app: $(VENV)/installed
	$(PY) app.py

test: $(VENV)/installed-test system
	$(PY) -m ruff check .
	$(PY) -m pytest

benchmarks: $(VENV)/installed-test system
	@for file in $(BENCHMARKS); do echo "== $$file"; $(PY) -m $$(echo $${file%.py} | tr / .) || exit 1; done

# The editable install keeps assets/ beside the code, where the shipped models are looked up.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Browser and fonts for the tests, only where they are missing.
system:
	@command -v chromium >/dev/null && command -v node >/dev/null && fc-list | grep -q NotoColorEmoji && fc-list | grep -qi 'Noto.*CJK' || { \
	  $(ROOT) apt-get update -qq && \
	  $(ROOT) apt-get install -y -qq --no-install-recommends chromium nodejs fontconfig fonts-noto-color-emoji fonts-noto-cjk; }

clean:
	rm -rf $(VENV) .train

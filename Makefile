# Everything starts here; `make` alone says what there is.
# Needs Python 3.11 or newer with pip, and make. The environment is built in .venv.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
DATA := .noetl
PORT ?= 8082
CORE := tests/unit/state_builder tests/replay
SYNC ?= 2m

.PHONY: help run dev test check format bench clean distclean
.DEFAULT_GOAL := help

help:
	@echo 'make run     run the example in examples/orders on a stack of its own'
	@echo 'make dev     keep that stack up (PORT=8082, SYNC=2m)'
	@echo 'make test    every test'
	@echo 'make check   format, lint, types, import contracts, house rules'
	@echo 'make bench   measure this machine (SYNC=always, ONLY=w1,w2)'
	@echo 'make format  put the code into its form'
	@echo 'make clean   remove data and caches; make distclean also .venv'

run: $(VENV)/.installed-dev
	@$(BIN)/noetl dev --data $(DATA) --port 0 \
		--run examples/orders/playbook.yaml \
		--with 'python examples/orders/api.py {port}' \
		--set 'api=http://127.0.0.1:{port}' --set 'database={demo_dsn}'

dev: $(VENV)/.installed-dev
	@$(BIN)/noetl dev --data $(DATA) --port $(PORT) --sync $(SYNC)

# Without ARGS, the branches of the core are measured first.
test: $(VENV)/.installed-test
ifeq ($(ARGS),)
	$(BIN)/pytest -q $(CORE) -m 'not slow' --hypothesis-seed=0 --cov --cov-report=term-missing:skip-covered
endif
	$(BIN)/pytest $(ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_tidy.py

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/noetl settings --markdown > charts/noetl-worker/SETTINGS.md

bench: $(VENV)/.installed-test
	$(BIN)/python -m bench --sync $(SYNC) $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(DATA) build dist htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) *.egg-info

# The stamps follow pyproject.toml: a changed dependency installs again. Where Python
# comes without ensurepip, the environment is filled by the pip outside of it.
$(VENV)/.installed-%: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'error: Python 3.11 or newer is needed, and none was found; name one with make PYTHON=…' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@echo 'installing into $(VENV) …'
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; \
		then pip='$(BIN)/python -m pip'; \
		else pip='$(PYTHON) -m pip --python $(BIN)/python'; fi; \
		$$pip install --quiet --disable-pip-version-check --editable '.[$(extras)]'
	@touch $@

$(VENV)/.installed-dev: extras := dev
$(VENV)/.installed-test: extras := dev,test

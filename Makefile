# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-fast lint bench generated clean

setup: $(VENV)/.ready

# The bot, its test tools; the quantizers' environment is made by the bot when it first needs it.
$(VENV)/.ready: pyproject.toml runners/environments/bot.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "release-bot needs Python 3.11 or newer; try: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c runners/environments/bot.txt -e '.[demo,test]'
	@touch $@

demo: setup
	@$(BIN)/release-bot demo

# Two workers; tests/conftest.py says what each takes, the longest first.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --durations 25

# Everything but what needs the real quantizers, the real engine or the demo (`e2e`): some minutes.
test-fast: setup
	$(BIN)/python -m pytest -m 'not e2e'

lint: setup
	$(BIN)/ruff check bot tests
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tests.bench

# What is generated: the README's tables, house recipes' page, JSON schemas, runners' classes, golden cards.
generated: setup
	$(BIN)/python -m bot.readme
	$(BIN)/python -m bot.house.page
	$(BIN)/python -m bot.schemas
	$(BIN)/python -m bot.fleet
	$(BIN)/python tests/fixtures/cards/update.py

clean:
	rm -rf $(VENV) .release-bot build *.egg-info

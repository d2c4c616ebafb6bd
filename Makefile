# make demo and make test work on a bare machine with Python 3.11+; the rest is for whoever works on the project.
# GNU make 3.81 will do.
.PHONY: help demo test lint bench docs clean lock

BIN := .venv/bin
JOBS ?= auto

help:
	@echo "make demo    see it work: a private PostgreSQL, a shop, a read model, a question about the past"
	@echo "make test    run the tests on a private PostgreSQL (EVENTSTORE_TEST_URL: on another one)"
	@echo "make lint    style, types, layers, migrations, locks"
	@echo "make bench   measure, beside floors and peers (ARGS=\"append read --rounds 5\": some of it; ARGS=--help)"
	@echo "make docs    build the documentation into site/"
	@echo "make clean   remove what was made"

demo:
	@sh .ci/venv run
	@$(BIN)/eventstore demo

test:
	@sh .ci/venv dev
	@$(BIN)/pytest -n $(JOBS) $(ARGS)

lint:
	@sh .ci/venv dev
	@sh .ci/lint

bench:
	@sh .ci/venv bench
	@$(BIN)/python -m benchmarks $(ARGS)

docs:
	@sh .ci/venv dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file .ci/mkdocs.yml

clean:
	rm -rf .venv site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .eventstore
	find . -name __pycache__ -prune -exec rm -rf {} +

lock:
	uv pip compile pyproject.toml --extra embedded --extra cli --group build --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet --upgrade -o requirements/run.txt
	uv pip compile pyproject.toml --extra embedded --extra cli --group build --group dev -c requirements/run.txt --universal \
	    --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet --upgrade -o requirements/dev.txt
	uv pip compile pyproject.toml --extra embedded --extra cli --group build --group bench -c requirements/run.txt \
	    -c requirements/dev.txt --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --quiet --upgrade -o requirements/bench.txt

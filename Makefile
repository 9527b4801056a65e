# Every target that needs the environment makes it first: `make demo` works on a fresh clone with Python and make.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := profiles search device_runtime pipeline
# The first of these that is >= 3.11 and < 3.13; `make env PYTHON=/path/to/python` names another.
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3 python)
VERSION_CHECK := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

# The Ray environment is .venv's libraries with what only Ray brings: another torch would be gigabytes more.
RAY := .elsewhere/ray/bin
LIBRARIES := import sysconfig; print(sysconfig.get_path('purelib'))

.PHONY: env demo test test-slow test-device test-elsewhere test-ray lint types check clean

env: $(STAMP)

# The last step: dp-accounting pins an old attrs (see pyproject.toml), so it comes without its dependencies.
$(STAMP): pyproject.toml constraints.txt
	@found=""; for python in $(PYTHONS); do \
	  if "$$python" -c "$(VERSION_CHECK)" 2>/dev/null; then found="$$python"; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "handheld needs Python >= 3.11 and < 3.13, and none of these is one: $(PYTHONS)." >&2; \
	  echo "Install one (Debian and Ubuntu: apt-get install python3.11 python3.11-venv), or name it: make env PYTHON=/path/to/python3.12" >&2; \
	  exit 1; fi; \
	if ! [ -x $(BIN)/python ]; then \
	  echo "making $(VENV) with $$found"; \
	  "$$found" -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$$found cannot make environments; Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; fi
	$(BIN)/python -m pip install --quiet --editable ".[pipeline,test]" --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt dp-accounting
	@touch $@

demo: env
	$(BIN)/handheld demo

test: env
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: env
	$(BIN)/python -m pytest -m slow

# The device extra alone, from the installed wheel, in an environment of its own.
test-device: env
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_device_extra.py

# The graphs on other ONNX Runtimes, from PyPI and npm; needs Node.js besides.
test-elsewhere: env
	$(BIN)/python -m pytest -m elsewhere tests/elsewhere

# Emulated phones on a Ray cluster of this machine; the extra comes from a package index.
test-ray: env
	$(BIN)/python -m venv .elsewhere/ray
	$(BIN)/python -c "$(LIBRARIES)" > "$$($(RAY)/python -c "$(LIBRARIES)")/handheld-venv.pth"
	$(RAY)/python -m pip install --quiet --editable ".[ray]" --constraint constraints.txt
	$(RAY)/python -m pytest -m ray tests/pipeline/fleet/test_ray_workers.py tests/pipeline/searching/test_session.py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) .elsewhere build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

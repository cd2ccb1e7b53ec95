# make train      trains GoogLeNet with its heads on the embedded digits, evaluates it, exports it
# make tune       searches the best of three ways to double a small EfficientNet, on the digits
# make gallery    measures the statements of the lecture, in an hour, and writes docs/lecture.md
# make test       runs the tests;  make test-all  the slow ones too;  make lint  checks the style
# make tensorboard   shows the runs
.PHONY: train tune gallery test test-all lint tensorboard clean
SHELL := /bin/sh
VENV := .venv
# The first Python of a version that TensorFlow supports.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

train: $(VENV)/installed
	$(VENV)/bin/python -m training fit googlenet_digits

# The paper's triple, width alone, and resolution alone.
tune: $(VENV)/installed
	$(VENV)/bin/python -m tuning compound --triples 1.2/1.1/1.15 1/1.4/1 1/1/1.4 --seeds 2

gallery: $(VENV)/installed-studies
	$(VENV)/bin/python -m training study all
	$(VENV)/bin/python -m docs.gallery

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "slow or not slow"

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

tensorboard: $(VENV)/installed
	$(VENV)/bin/tensorboard --logdir runs

$(VENV)/installed: requirements.txt
$(VENV)/installed-studies: requirements-studies.txt requirements.txt
$(VENV)/installed-test: requirements-test.txt requirements-studies.txt requirements-export.txt requirements.txt
$(VENV)/installed $(VENV)/installed-studies $(VENV)/installed-test: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found. Install one, or pass PYTHON=/path/to/python." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "Making $(VENV) failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

clean:
	rm -rf $(VENV)

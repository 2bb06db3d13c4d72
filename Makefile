# `make` lists what can be done. Everything runs in an environment of its own, which `make setup` makes.
PYTHON ?= python3
VENV ?= .venv

python := $(abspath $(VENV))/bin/python
ready := $(VENV)/.ready
export PATH := $(abspath $(VENV))/bin:$(PATH)
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help: ## List what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## To use it

.PHONY: setup
setup: $(ready) ## Make the environment in .venv (PYTHON=... chooses another Python, at least 3.11)

# remade only when what it is made from has changed
$(ready): constraints.txt settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11")'
	@echo "Setting up $(VENV): this takes a few minutes, once."
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(python) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@touch $@

.PHONY: train
train: $(ready) ## Train experiments/001.yml (EXPERIMENT=010_cnn for another one)
	@$(python) -m dlops_mnist.train $(or $(EXPERIMENT),001)

.PHONY: circle
circle: $(ready) ## Once around, in minutes: train, serve, collect, label, grow, retrain, compare, promote (FOLDER=... keeps it)
	@$(python) tools/circle.py $(FOLDER)

.PHONY: lab
lab: $(ready) ## Open the lessons in JupyterLab
	@jupyter lab nbs/index.ipynb

.PHONY: new
new: $(ready) ## Begin a project of your own: a renamed copy beside this folder (NAME=my_letters, lessons=no: without these)
	@$(python) tools/new.py "$$NAME" $${FOLDER:+"$$FOLDER"} $${lessons:+"lessons=$$lessons"}

## To change it

.PHONY: check
check: $(ready) ## Check what the uncommitted change touches, within 40 seconds
	@$(python) tools/check.py

.PHONY: test
test: $(ready) ## Check the notebooks, run them all, and run the tests, in a process for each core
	@$(python) tools/run_tests.py

.PHONY: test-slow
test-slow: $(ready) ## The same, with the slow cells and tests
	@$(python) tools/run_tests.py --slow

.PHONY: guarantees
guarantees: $(ready) ## The long half of what nbs/07_train.ipynb promises: kills, full disks, hostile files
	@$(python) tools/run_tests.py --guarantees

.PHONY: mutants
mutants: $(ready) ## Break the package in 300 small ways, and list what no test notices (hours; Ctrl-C, and it goes on; COUNT=20 SEED=1)
	@$(python) tools/mutants.py $(or $(COUNT),300) $(or $(SEED),0)

.PHONY: watch
watch: $(ready) ## Export a notebook each time it is saved
	@echo "Each notebook in nbs/ is exported when it is saved; Ctrl-C ends this."
	@watch_export

.PHONY: export
export: $(ready) ## Export the notebooks to dlops_mnist/
	@$(python) tools/notebooks.py export

.PHONY: clean
clean: $(ready) ## Remove from the notebooks what differs at each save
	@nbdev_clean

.PHONY: prepare
prepare: $(ready) ## Before a commit: export, execute what has changed (NB=06_config: this one), clean, links, README
	@$(python) tools/notebooks.py prepare $(NB)
	@$(python) tools/links.py
	@$(python) tools/readme.py

.PHONY: readme
readme: $(ready) ## Make README.md from nbs/index.ipynb
	@$(python) tools/readme.py

.PHONY: docs
docs: $(ready) ## Build the documentation site in _docs/site
	@$(python) tools/docs.py

.PHONY: links
links: $(ready) ## Write what leads from notebook to notebook: links, tables, badges, install lines
	@$(python) tools/links.py
	@$(python) tools/readme.py

.PHONY: lint
lint: $(ready) ## Check the style of the code
	@ruff check

.PHONY: pace
pace: $(ready) ## Show how the lessons are cut, what the modules weigh, how long the last `make test` took
	@$(python) tools/notebooks.py pace

.PHONY: hooks
hooks: $(ready) ## Install nbdev's hooks: clean notebooks at each save, merge them cell by cell
	@echo "In this repository, nbdev's hooks go into .git/hooks, .gitconfig and .gitattributes;"
	@echo "outside of it, into ~/.jupyter/jupyter_notebook_config.py and jupyter_server_config.py (cleaning at each save)."
	@nbdev_install_hooks

# Every target sets up what it needs: on a fresh machine Python 3.11 or newer and make are enough.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := .venv/packages
INSTALLED := .venv/installed
DEMO_PACKAGES := .venv/demo-packages
DEMO_EXTRAS := build,cpu,encode,live,train,demo
ALL_EXTRAS := $(DEMO_EXTRAS),log,teach,load,openvino,sign,fetch,client,browser,docs,image,dev
# The demos need less than all else, and take that where it is.
DEMO_INSTALLED := $(if $(wildcard $(PACKAGES)),$(INSTALLED),.venv/demo-installed)
CORE := native/__init__.py native/build.py $(wildcard native/*.cpp native/*/*.hpp)
# With QUICK=1 all targets use the bundle of a quick demo, whose figures mean nothing.
BUNDLE := runs/demo$(if $(QUICK),-quick)/bundle

PROMTOOL ?= promtool

# Whatever the environment says: tests and commands start hundreds of processes, each of which would compile all anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: soak-day rules demo demo-creatives test browser screenshots check serve bench chaos docs chart chart-files docs-files openapi load image locks observe ray native soak crashes sanitise wheel wheel-arm64
.DEFAULT_GOAL := demo

# The install builds the core where it can; the second step says so, and builds what is older than its sources.
define install
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[$(1)]'
endef
define build
	@$(BIN)/python -m native.build --if-stale || true
	@touch $@
endef

$(DEMO_PACKAGES): pyproject.toml
	$(call install,$(DEMO_EXTRAS))
	@touch $@

$(PACKAGES): pyproject.toml
	$(call install,$(ALL_EXTRAS))
	@touch $@

.venv/demo-installed: $(DEMO_PACKAGES) $(CORE)
	$(build)

$(INSTALLED): $(PACKAGES) $(CORE)
	$(build)

demo: $(DEMO_INSTALLED)  ## From nothing to scored ads on MovieLens-100K; finished steps are reused. QUICK=1: in minutes, with figures that mean nothing. NETWORK=paper: the paper's own network, in runs/demo-paper.
	$(BIN)/msd demo $(if $(QUICK),--quick) $(if $(NETWORK),--network $(NETWORK))

demo-creatives: $(DEMO_INSTALLED)  ## Which headline wins? Invented tests, or those of DATA=your download of the Upworthy Research Archive.
	$(BIN)/msd demo-creatives $(if $(DATA),--archive $(DATA) --out runs/demo-creatives-archive)

# Three processes on two cores: tests of running services wait for much of their time. `make browser` runs tests/browser.
test: $(INSTALLED)  ## The whole test suite, with a real Redis-compatible server.
	$(BIN)/python -m pytest --numprocesses 3 --ignore tests/browser

browser: $(INSTALLED)  ## All pages in a real Chromium (Debian: apt install chromium; elsewhere CHROMIUM=its path).
	$(BIN)/python -m pytest tests/browser -m browser

screenshots: $(BUNDLE)/manifest.json  ## All pages at 1440 and 390 px, by the same Chromium, in runs/screenshots; the playground's is in the documentation.
	$(BIN)/python -m tests.browser.screenshots $(BUNDLE) runs/screenshots
	cp runs/screenshots/playground-1440.png docs/pictures/playground.png

check: $(INSTALLED)  ## Formatting, linting and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(BUNDLE)/manifest.json: | $(DEMO_INSTALLED)
	$(BIN)/msd demo $(if $(QUICK),--quick)

serve: $(BUNDLE)/manifest.json  ## Serves the demo's bundle on http://127.0.0.1:8080, its playground at /playground, until interrupted.
	$(BIN)/msd serve $(BUNDLE) --playground --playground-without $(BUNDLE)-without-semantics

bench: $(BUNDLE)/manifest.json  ## Latency of a service started by `make serve`.
	$(BIN)/msd bench $(BUNDLE)

load: $(INSTALLED) $(BUNDLE)/manifest.json  ## A session of load and its page, runs/load/load.html. URL=address of a running service.
	$(BIN)/msd load $(BUNDLE) $(if $(URL),--url $(URL)) --open

chaos: $(INSTALLED)  ## Breaks a service for real: runs/chaos/chaos.json and .html. ONLY=scenarios.
	$(BIN)/msd lab chaos $(if $(ONLY),--only $(ONLY))

native: $(INSTALLED)  ## Builds the native core anew; needs a C++ compiler, or the package ziglang.
	$(BIN)/python -m native.build

soak: $(INSTALLED)  ## Holds the native core against its corpus, and against the reference over 100,000 drawn requests (minutes).
	$(BIN)/python -m tests.native.soak

soak-day: $(INSTALLED)  ## Another piece of a day of life, of MINUTES (120): traffic, swaps, kills, attacks; replies checked by replay. Page: runs/day/chaos.html.
	$(BIN)/msd lab chaos --only day --add --minutes $(or $(MINUTES),120) --out runs/day

crashes: $(INSTALLED)  ## Kills writers 500 times, and checks what they leave (minutes).
	$(BIN)/python -m tests.service.crashes 500

# Cores of their own beside the tree's. Python itself leaks by design.
SANITISED := runs/sanitised
sanitise: $(INSTALLED)  ## 22,000 requests, 10,000 heads, and traffic with swaps, with AddressSanitizer and UBSan; traffic with ThreadSanitizer. Needs GCC.
	for sanitiser in address thread; do \
	mkdir -p $(SANITISED)/$$sanitiser/native && cp native/*.py $(SANITISED)/$$sanitiser/native && \
	$(BIN)/python -m native.build --sanitise $$sanitiser --out $(SANITISED)/$$sanitiser/native || exit 1; done
	for soak in "tests.native.soak --requests 2000 --heads 10000" tests.service.engine_soak; do \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	PYTHONPATH=$(SANITISED)/address:. $(BIN)/python -P -m $$soak || exit 1; done
	LD_PRELOAD="$$($(CXX) -print-file-name=libtsan.so)" TSAN_OPTIONS=halt_on_error=1 \
	PYTHONPATH=$(SANITISED)/thread:. $(BIN)/python -P -m tests.service.engine_soak

# Ray is large, and starts slowly: it is no part of the test suite.
ray: $(INSTALLED)  ## The tests that need Ray, which they start on this machine.
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	$(BIN)/python -m pytest tests/operations/catalogue -m ray

docs: $(INSTALLED)  ## The documentation as a site, in runs/site/index.html; every link is checked.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

observe: rules $(BUNDLE)/manifest.json  ## Service, Prometheus and rules under load: what each panel shows.
	$(BIN)/msd lab observe $(BUNDLE) $(BUNDLE)-without-semantics

rules:  ## Recording rules and alerts: are they well-formed, and does what happens fire what it should?
	@command -v $(PROMTOOL) >/dev/null || { echo "$(PROMTOOL) is not there; it comes with Prometheus (Debian: apt install prometheus)"; exit 1; }
	$(PROMTOOL) check rules helm/msd-ctr/files/rules.yaml
	$(PROMTOOL) test rules helm/msd-ctr/files/rules_test.yaml

chart: $(INSTALLED)  ## Tests the Helm chart. HELM=program.
	$(BIN)/python -m tests.chart

chart-files: $(INSTALLED)  ## Writes what of the chart follows from the service's settings and from values.yaml.
	$(BIN)/python -m tests.chart.written

docs-files: $(INSTALLED)  ## Writes docs/dataset-toml.md, and the messages that tests compare, from the code.
	$(BIN)/python -m tests.docs.generated

openapi: $(INSTALLED)  ## Writes docs/openapi.json, which a test holds against a running service.
	$(BIN)/python -m tests.service.test_openapi

image: $(BUNDLE)/manifest.json  ## Builds, runs and checks the container image: runs/image. TARGETS="cpu gpu"; OPTIONS for the program.
	$(BIN)/python -m lab.image $(addprefix --target ,$(or $(TARGETS),cpu)) $(OPTIONS)

wheel: $(INSTALLED)  ## A wheel with the core and the instant demo, in runs/wheel; it serves from an empty environment.
	rm -rf runs/wheel && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir runs/wheel .
	$(PYTHON) -m venv runs/wheel/venv
	runs/wheel/venv/bin/python -m pip install --quiet "$$(ls runs/wheel/*.whl)[cpu,encode]"
	cd runs/wheel && { venv/bin/msd demo --instant --port 14080 & echo $$! > pid; wait $$!; } | \
	{ grep --max-count 1 "Serving on" && kill $$(cat pid) && cat > /dev/null; }

# Byte 18 of an ELF file is the machine, 183 for arm64.
wheel-arm64: $(INSTALLED)  ## The same wheel for Linux on arm64, in runs/wheel-arm64, by the compiler of the package ziglang.
	rm -rf runs/wheel-arm64
	MSD_TARGET=aarch64-linux-gnu $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir runs/wheel-arm64 .
	cd runs/wheel-arm64 && $(PYTHON) -c "import glob, zipfile; wheel = zipfile.ZipFile(*glob.glob('*-linux_aarch64.whl')); \
	assert [wheel.read(name)[18] for name in wheel.namelist() if name.endswith('.so')] == [183]"

LOCKED_CPU := cpu encode fetch live log openvino sign
LOCKED_GPU := cuda encode fetch live log sign
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.13 --generate-hashes --no-header --no-annotate

locks: $(INSTALLED)  ## The newest packages that pyproject.toml allows, by their hashes, for the image.
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | $(COMPILE) - --output-file requirements/build.txt
	$(COMPILE) pyproject.toml --excludes requirements/excluded.txt $(addprefix --extra ,$(LOCKED_CPU)) --output-file requirements/cpu.txt
	$(COMPILE) pyproject.toml --excludes requirements/excluded.txt $(addprefix --extra ,$(LOCKED_GPU)) --output-file requirements/gpu.txt

# The service's image: targets cpu (the default) and gpu. docs/install.md says what is in each and how it is run.
# To pin the base, too: --build-arg PYTHON=python:3.13-slim-trixie@sha256:...
ARG PYTHON=python:3.13-slim-trixie

# What installs: it stays behind. The environment that is copied, /opt/msd, has no pip.
FROM ${PYTHON} AS tools
ENV PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# `strip` leaves nothing of itself in what is copied, so any version of it will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/msd

# The product. It has a layer of its own, so that a change of it leaves the packages' as it was.
FROM tools AS product
# The native core is compiled here; the base has Python's headers, numpy and nanobind come with what builds the wheel.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY requirements/build.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/tools/bin/pip install --only-binary :all: --no-deps --require-hashes -r requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY msd/ msd/
COPY model_export/ model_export/
COPY onnx_factorise/ onnx_factorise/
COPY msd_client/ msd_client/
COPY service/ service/
COPY operations/ operations/
COPY loadtest/ loadtest/
COPY native/ native/
# A wheel without the core has another name, and is not found.
RUN /opt/tools/bin/pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels . \
    && /opt/tools/bin/pip --python /opt/msd/bin/python install --no-compile --no-deps --no-index /wheels/*-linux_*.whl \
    && /opt/msd/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/msd/lib

FROM tools AS cpu-packages
COPY requirements/cpu.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/tools/bin/pip --python /opt/msd/bin/python install \
    --no-compile --only-binary :all: --no-deps --require-hashes -r requirements/cpu.txt
COPY requirements/prune.py requirements/
RUN /opt/msd/bin/python requirements/prune.py \
    && /opt/msd/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/msd/lib

FROM tools AS gpu-packages
COPY requirements/gpu.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/tools/bin/pip --python /opt/msd/bin/python install \
    --no-compile --only-binary :all: --no-deps --require-hashes -r requirements/gpu.txt
COPY requirements/prune.py requirements/
RUN /opt/msd/bin/python requirements/prune.py \
    && /opt/msd/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/msd/lib \
    && mkdir /opt/msd/cuda && find /opt/msd/lib -path '*/nvidia/*/lib/*.so*' -exec ln -s -t /opt/msd/cuda {} +

# What both targets are. Nothing is installed here: the base's packages are all that there are.
FROM ${PYTHON} AS runtime
RUN groupadd --gid 10001 msd && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin msd
ENV PATH=/opt/msd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MSD_BUNDLE=/bundle \
    MSD_HOST=0.0.0.0 \
    MSD_PORT=8080
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "service.probe"]
ENTRYPOINT ["msd"]
CMD ["serve"]
# Last, because they change with each build.
ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="msd-ctr" \
      org.opencontainers.image.description="Click prediction with a large language model's knowledge, distilled" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENV MSD_REVISION=${REVISION}

FROM runtime AS gpu
# CUDA's libraries come with the packages: the host brings the driver alone.
ENV MSD_PROVIDER=cuda LD_LIBRARY_PATH=/opt/msd/cuda
COPY --from=gpu-packages /opt/msd /opt/msd
COPY --from=product /opt/msd /opt/msd
USER 10001:10001

FROM runtime AS cpu
COPY --from=cpu-packages /opt/msd /opt/msd
COPY --from=product /opt/msd /opt/msd
USER 10001:10001

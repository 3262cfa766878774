# The HTTP service. From the repository's root:
#   docker build -f docker/service.Dockerfile -t kindred-service .
# For an NVIDIA GPU, with the CUDA libraries in the image: --build-arg RUNTIME=gpu

FROM python:3.11-slim-bookworm AS build
ARG RUNTIME=serve
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/kindred && python -m venv /opt/build
COPY requirements/build.txt requirements/
RUN /opt/build/bin/pip install --require-hashes -r requirements/build.txt
COPY requirements/${RUNTIME}.txt requirements/
RUN /opt/kindred/bin/pip install --require-hashes -r requirements/${RUNTIME}.txt
COPY pyproject.toml README.md ./
COPY index index
COPY service service
# What runs needs neither pip nor the trainer's command, whose code is not in this image.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/kindred/bin/pip install --no-deps --prefix /opt/project dist/*.whl \
    && rm /opt/project/bin/kindred-train \
    && /opt/kindred/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
# A fixed uid, so that a host can give it a folder. Nothing but /data needs to be writable: run it
# with a read-only root and a /tmp in memory, as docker-compose.yml does.
RUN groupadd --gid 10001 kindred \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data kindred \
    && install -d -o kindred -g kindred /data
# Two layers: the libraries seldom change, the project often.
COPY --from=build /opt/kindred /opt/kindred
COPY --from=build /opt/project /opt/kindred
ENV PATH=/opt/kindred/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KINDRED_DATA=/data \
    KINDRED_HOST=0.0.0.0 \
    KINDRED_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['KINDRED_PORT'] + '/readyz', timeout=9)"]
CMD ["kindred-serve"]

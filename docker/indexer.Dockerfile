# The batch indexing job. From the repository's root:
#   docker build -f docker/indexer.Dockerfile -t kindred-indexer .
#   docker run --rm -v kindred_data:/data -v ~/Pictures:/pictures:ro kindred-indexer \
#       build /pictures --collection photos
# For an NVIDIA GPU, with the CUDA libraries in the image: --build-arg RUNTIME=gpu

FROM python:3.11-slim-bookworm AS build
ARG RUNTIME=serve
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
# The same steps as in service.Dockerfile, so that a builder makes these layers once for both.
RUN python -m venv /opt/kindred && python -m venv /opt/build
COPY requirements/build.txt requirements/
RUN /opt/build/bin/pip install --require-hashes -r requirements/build.txt
COPY requirements/${RUNTIME}.txt requirements/
RUN /opt/kindred/bin/pip install --require-hashes -r requirements/${RUNTIME}.txt
COPY pyproject.toml README.md ./
COPY index index
# What runs needs neither pip nor the other commands, whose code is not in this image.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/kindred/bin/pip install --no-deps --prefix /opt/project dist/*.whl \
    && rm /opt/project/bin/kindred-serve /opt/project/bin/kindred-train \
    && /opt/kindred/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
# The service's uid: both write to /data.
RUN groupadd --gid 10001 kindred \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data kindred \
    && install -d -o kindred -g kindred /data
# Two layers: the libraries seldom change, the project often.
COPY --from=build /opt/kindred /opt/kindred
COPY --from=build /opt/project /opt/kindred
ENV PATH=/opt/kindred/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KINDRED_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["kindred-index"]
CMD ["--help"]

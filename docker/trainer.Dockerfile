# Training on an NVIDIA GPU. From the repository's root:
#   docker build -f docker/trainer.Dockerfile -t kindred-trainer .
#   docker run --rm --gpus all -v kindred_runs:/runs -v ~/Pictures:/pictures:ro \
#       kindred-trainer pretrain --data /pictures --out /runs/first
# PyTorch brings its own CUDA libraries: the host needs the driver and the NVIDIA container toolkit.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/kindred && python -m venv /opt/build
COPY requirements/build.txt requirements/
RUN /opt/build/bin/pip install --require-hashes -r requirements/build.txt
COPY requirements/train.txt requirements/
RUN /opt/kindred/bin/pip install --require-hashes -r requirements/train.txt
COPY pyproject.toml README.md ./
COPY index index
COPY trainer trainer
# The service is not in this image; kindred-index is: an encoder is tried out where it is made.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/kindred/bin/pip install --no-deps --prefix /opt/project dist/*.whl \
    && rm /opt/project/bin/kindred-serve

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 kindred \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /runs kindred \
    && install -d -o kindred -g kindred /runs
# Two layers: the libraries seldom change, the project often.
COPY --from=build /opt/kindred /opt/kindred
COPY --from=build /opt/project /opt/kindred
ENV PATH=/opt/kindred/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /runs
VOLUME /runs
ENTRYPOINT ["kindred-train"]
CMD ["--help"]

# metro-t0 in a container; docs/install.md says how to build and run it.
ARG PYTHON_IMAGE=python:3.12-slim
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY metro_t0 metro_t0
COPY fairseq_plugins fairseq_plugins
COPY finetune finetune
COPY eval eval
COPY ablation ablation
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS cpu
# Address of an index with CPU builds of torch; without it the image carries the CUDA build that nothing in it uses.
# torchaudio, which fairseq asks for, has to be of the same build.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} "torch>=2.11" torchaudio
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/metro_t0-*.whl)[pretraining,generation]" && metro-t0-train --list
WORKDIR /work

FROM ${CUDA_IMAGE} AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3.12 python3.12-venv && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/metro-t0
ENV PATH=/opt/metro-t0/bin:$PATH
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/metro_t0-*.whl)[pretraining,generation]" && metro-t0-train --list
WORKDIR /work

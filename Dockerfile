# metro-t0 in a container; docs/install.md says how to build and run it.
ARG PYTHON_IMAGE=python:3.12-slim
ARG CUDA_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY metro_t0 metro_t0
COPY fairseq_plugins fairseq_plugins
COPY finetune finetune
COPY eval eval
COPY ablation ablation
RUN pip wheel --no-deps --wheel-dir /wheels .

# torchaudio, which fairseq asks for and nothing here uses, makes transformers fail where it is not built for torch's CUDA.
FROM ${PYTHON_IMAGE} AS cpu
# Address of an index with CPU builds of torch; without it the image carries the CUDA build that nothing in it uses.
ARG TORCH_INDEX=""
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
        "$(ls /wheels/metro_t0-*.whl)[pretraining,generation]" && \
    pip uninstall --yes torchaudio && python -c "import fairseq_plugins"
WORKDIR /work

# The base has no CUDA libraries: torch brings its own. Triton and torch.compile need a compiler and Python's headers.
FROM ${CUDA_IMAGE} AS cuda
RUN apt-get update && \
    apt-get install -y --no-install-recommends python3.12 python3.12-venv python3.12-dev g++ && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/metro-t0
ENV PATH=/opt/metro-t0/bin:$PATH
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/metro_t0-*.whl)[pretraining,generation]" && \
    pip uninstall --yes torchaudio && python -c "import fairseq_plugins"
WORKDIR /work

# The server, on CPUs or GPUs (docs/serving.md). Build it in the repository: docker build -t nim4-kit .
# PyPI's torch has CUDA in it and runs on CPUs, too. For a much smaller image give PyTorch's own index of CPU wheels:
#   docker build --build-arg TORCH_INDEX=ADDRESS -t nim4-kit .
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
WORKDIR /kit
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN TORCH="$(grep '^torch==' constraints.txt)" \
    && pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
COPY kit kit
COPY kernels kernels
COPY datamodules datamodules
COPY stages stages
COPY configs configs
RUN pip install --constraint constraints.txt ".[opus]"

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 kit
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/kit
USER kit
EXPOSE 8000
# The export comes as a volume at /export; the token by KIT_TOKEN.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "kit", "serve", "checkpoint=/export", "serving.host=0.0.0.0", "serving.port=8000"]

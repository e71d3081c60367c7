# The container that is submitted.
# GPU image, driver 580 or newer:  docker build -t kits-cascade .
# GPU image, driver 525 or newer:  docker build -t kits-cascade:cuda12 --build-arg TORCH=cuda12 .
# CPU image:  docker build -t kits-cascade:cpu --build-arg TORCH=cpu \
#                 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
FROM python:3.11-slim-bookworm AS builder

# cuda, as PyPI has it, cuda12, or cpu; TORCH_INDEX is a further package index, for the builds of torch that PyPI lacks.
ARG TORCH=cuda
ARG TORCH_INDEX=

RUN python -m venv /opt/venv
COPY requirements.txt requirements-report.txt /tmp/
# The last torch that PyPI has for CUDA 12, and the same DALI built for it.
RUN if [ "$TORCH" = cuda12 ]; then sed -i 's/^torch==.*/torch==2.10.0/; s/dali-cuda130/dali-cuda120/' /tmp/requirements.txt; fi
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /tmp/requirements-report.txt

# A torch of the other kind would run, but slowly or with gigabytes of libraries for nothing.
RUN /opt/venv/bin/python -c "import sys, torch; \
sys.exit({None: 'cpu', '12': 'cuda12', '13': 'cuda'}.get(torch.version.cuda and torch.version.cuda[:2]) != '$TORCH')" || \
    { echo "This is no torch for TORCH=$TORCH; name the index that has it by --build-arg TORCH_INDEX=URL" >&2; exit 1; }

# What only building, testing or other Pythons need; then, on a CPU, DALI's GPU decoders of JPEG, TIFF and the like.
RUN cd /opt/venv/lib/python3.11/site-packages && \
    find scipy skimage sympy networkx mpmath -depth -type d -name tests -exec rm -r {} + && \
    find nvidia -name '*.cpython-3*.so' ! -name '*.cpython-311-*' -delete && \
    find nvidia -depth -type d -name include -exec rm -r {} + && \
    find torch/bin -type f ! -name torch_shm_manager -delete && \
    rm -rf torch/test torch/include && \
    if [ "$TORCH" = cpu ]; then /opt/venv/bin/pip uninstall --quiet --yes nvidia-libnvcomp-cu13 \
        nvidia-nvimgcodec-cu13 nvidia-nvjpeg nvidia-nvjpeg2k-cu13 nvidia-nvtiff-cu13; fi && \
    /opt/venv/bin/pip uninstall --quiet --yes pip


FROM python:3.11-slim-bookworm

RUN useradd --uid 1000 --no-create-home --home-dir /tmp kits
COPY --from=builder /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Which GPUs, and which parts of their driver, --gpus and the NVIDIA runtime hand in; `utility` tells the driver's version.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/kits-cascade
COPY weights weights
RUN cd weights && sha256sum --check --strict SHA256SUMS
COPY LICENSE process.py ./
COPY kits kits
# The viewer pages' library, where the checkout has not fetched it; without it only --html cannot be had.
RUN python -m kits.batch.viewer.fetch --if-missing || echo "Without NiiVue: --html will end with a sentence."
RUN python -m compileall -q process.py kits && python process.py --help >/dev/null

ARG REVISION=unknown
LABEL org.opencontainers.image.title="kits-cascade" \
      org.opencontainers.image.description="Kidneys and kidney tumours in abdominal CT" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-NC-SA-4.0"

USER 1000:1000
ENTRYPOINT ["python", "process.py"]

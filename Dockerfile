# docker build -t synthpipe .                                          with PyTorch for NVIDIA GPUs
# docker build -t synthpipe:cpu --build-arg VARIANT=cpu .              with PyTorch for CPUs
# docker build -t synthpipe:render --build-arg VARIANT=render .        without PyTorch: only renders
#
# run="docker run --rm --user $(id -u):$(id -g) -v $PWD:/data"         your user owns the files that it writes
# $run synthpipe phantom data/phantom
# $run synthpipe build pipelines/demo.yaml -o runs/demo
# $run --gpus all --shm-size=2g synthpipe train ...                    batches are in shared memory
# $run --read-only --tmpfs /tmp --volume kernels:/opt/synthpipe/kernels synthpipe verify runs/demo
FROM python:3.11.16-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

ARG VARIANT=gpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /opt/synthpipe

# dependencies come first: after a change of the source they are not installed again
COPY constraints.txt pyproject.toml setup.cfg ./
COPY requirements requirements
RUN touch README.md LICENSE \
    && case "$VARIANT" in \
        gpu) pip install --constraint constraints.txt ".[export,s3,train]" ;; \
        cpu) pip install --constraint constraints.txt --extra-index-url "$TORCH_CPU_INDEX" ".[export,s3,train]" ;; \
        render) pip install --no-deps --requirement requirements/render.txt ;; \
        *) echo "VARIANT is $VARIANT, expected gpu, cpu or render" >&2; exit 1 ;; \
    esac

COPY README.md LICENSE MANIFEST.in ./
COPY pipelines pipelines
COPY synthpipe synthpipe
RUN pip install --no-deps --force-reinstall .

# compiles the kernels for this processor; on another processor any user compiles them once more
ENV NUMBA_CACHE_DIR=/opt/synthpipe/kernels
RUN mkdir kernels \
    && synthpipe phantom /tmp/phantom --slide-count 6 --patch-count 90 --size 48 \
    && synthpipe build demo --set patches.root=/tmp/phantom --set filter.enabled=false --set canvas=32 \
        --set mosaic.tile=16 --set curation.wanted=8 --set store.shard=8 --workers 1 --output /tmp/run \
    && chmod -R a+rwX kernels \
    && rm -r /tmp/phantom /tmp/run

# caches of other packages, and of the kernels if their folder is read-only
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin synthpipe
USER 10001
WORKDIR /data
LABEL org.opencontainers.image.title="synthpipe" \
      org.opencontainers.image.description="Curated composites with pixel masks from weakly-labelled pathology patches" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["synthpipe"]
CMD ["--help"]

# docker build -t synthpipe .
# docker run --rm -v "$PWD:/data" -w /data synthpipe phantom data/phantom
# docker run --rm -v "$PWD:/data" -w /data synthpipe build pipelines/demo.yaml
# docker run --rm -v "$PWD:/data" -w /data --gpus all --shm-size=2g synthpipe train ...    batches lie in shared memory
FROM python:3.11-slim
WORKDIR /opt/synthpipe
COPY constraints.txt pyproject.toml setup.cfg README.md LICENSE ./
COPY pipelines pipelines
COPY synthpipe synthpipe
RUN pip install --no-cache-dir --constraint constraints.txt ".[export,s3,train]"
# compiled kernels are kept here, whoever runs the container
ENV NUMBA_CACHE_DIR=/tmp/synthpipe-kernels
ENTRYPOINT ["synthpipe"]
CMD ["--help"]

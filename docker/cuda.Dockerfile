# docker build -f docker/cuda.Dockerfile -t diamond_fast:cuda .
# docker run --rm -it --gpus all -v "$PWD/runs:/home/dream/runs" diamond_fast:cuda python -m diamond_fast.train --game Boxing
# docker run --rm -it --gpus all -p 8000:8000 diamond_fast:cuda python -m diamond_fast.play --host 0.0.0.0 --port 8000
# torch's own wheels bring CUDA's libraries, so the host needs nothing but the driver and NVIDIA's container toolkit.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
# Triton compiles a small launcher when it is first used
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN wheel=$(ls /wheels/*.whl) && pip install --no-cache-dir "$wheel[play]" && rm -r /wheels
WORKDIR /home/dream
EXPOSE 8000
CMD ["python", "-m", "diamond_fast.doctor"]

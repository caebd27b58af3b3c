# docker build -f docker/cpu.Dockerfile -t diamond_fast:cpu .
# docker run --rm -it -v "$PWD/runs:/home/dream/runs" diamond_fast:cpu python -m diamond_fast.train --preset catch
# docker run --rm -it -p 8000:8000 diamond_fast:cpu python -m diamond_fast.play --host 0.0.0.0 --port 8000
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.12-slim
# without this index, torch comes with gigabytes of CUDA
RUN pip install --no-cache-dir "torch>=2.11,<2.14" --index-url https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
RUN wheel=$(ls /wheels/*.whl) && pip install --no-cache-dir "$wheel[play]" && rm -r /wheels
WORKDIR /home/dream
EXPOSE 8000
CMD ["python", "-m", "diamond_fast.doctor"]

"""Others' engines for CPUs, given the network as an ONNX file. Loads without torch, as it does in a child process.

python rival_engines.py OpenVINO model.onnx inputs.npz 2 output.npy
"""

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Run = Callable[[Sequence[np.ndarray]], np.ndarray]


def openvino(path: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    model = core.compile_model(core.read_model(path), "CPU", settings)
    return lambda inputs: model(list(inputs), share_inputs=True, share_outputs=True)[0]


def onnxruntime(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


ENGINES: dict[str, Callable[[Path, int], Run]] = {"OpenVINO": openvino, "onnxruntime": onnxruntime}


def why_missing(engine: str) -> str | None:
    """What is to be installed for it; None if all is there."""
    missing = [name for name in (engine.lower(), "onnx") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install -e '.[rivals]'" if missing else None


def main(engine: str, model: str, inputs: str, threads: str, output: str) -> None:
    with np.load(inputs) as given:
        np.save(output, ENGINES[engine](Path(model), int(threads))([given[name] for name in given.files]))


if __name__ == "__main__":
    main(*sys.argv[1:])

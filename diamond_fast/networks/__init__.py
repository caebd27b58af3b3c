"""The networks in plain PyTorch, in the paper's symbols: the readable truth every fast path is held to.

A denoiser's network is a folder (or a file) with a config and a module. To add one, write

    @dataclass(frozen=True)
    class MyConfig(NetworkConfig):            # networks/config.py; its fields become flags
        model: ClassVar[str] = "package.module:MyNetwork"

    class MyNetwork(nn.Module):
        def __init__(self, cfg: MyConfig, spec: Spec): ...
        def forward(self, noisy_next_obs, c_noise, obs, act): ...    # shapes: networks/unet/model.py

and give it a name in ``registry.py``. It then trains, draws frames, is saved and played. It is fast as well if it has a
``walk`` (networks/backend.py), encodes past frames no more often than need be if it is a ``MemoryNetwork``
(networks/memory.py), and FastDenoiser takes its bare weights if it has a class method ``like``.
"""

"""Diffusion formulations as pure functions: what noise is, what the network learns, how a frame is drawn.

A formulation is one file with a config and a class. To add one, write

    @dataclass(frozen=True)
    class MyConfig(DiffusionConfig):          # formulations/config.py; its fields become flags
        formulation: ClassVar[str] = "package.module:Mine"
        steps: ClassVar[type[StepsConfig]] = MyStepsConfig      # if drawing has settings of its own
        levels: ClassVar[type[LevelsConfig]] = MyLevelsConfig   # if the training levels have

    class Mine(Formulation): ...              # formulations/protocol.py says which functions

and give it a name in ``registry.py``. It then trains, draws frames, is saved and played. The example is
``formulations/edm.py``.
"""

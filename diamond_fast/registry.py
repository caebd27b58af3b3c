"""Things that settings choose by name: each stands in one dictionary, name -> where it is. No torch.

The other side is a string such as ``package.module:Name``, so that nothing is imported before it is chosen, or the
thing itself.
"""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

NETWORKS = {
    "unet": "diamond_fast.networks.unet.config:InnerModelConfig",
    "cross_attention": "diamond_fast.networks.cross_attention.config:CrossAttentionConfig",
    "unet3d": "diamond_fast.networks.unet3d.config:UNet3DConfig",
    "dit": "diamond_fast.networks.dit.config:DiTConfig",
}
"""Networks of a denoiser: name -> config class, or where it is."""

FORMULATIONS = {
    "edm": "diamond_fast.formulations.config:DenoiserConfig",
    "ddpm": "diamond_fast.formulations.config:DDPMConfig",
    "flow": "diamond_fast.formulations.config:FlowConfig",
}
"""Formulations: name -> config class, or where it is."""


def find(registry: Mapping[str, Any], what: str, name: str) -> Any:
    """What stands under a name.

    Raises:
        ValueError: nothing does; the message begins with ``what``.
    """
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(registry)}"
        raise ValueError(f"{what} {name}: unknown; {hint}")
    return load(registry[name])


def load(place: Any) -> Any:
    """The thing at ``package.module:Name``; what is no string is the thing itself."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)

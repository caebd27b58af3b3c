"""Settings as plain data: their limits, their command-line names, JSON and back.

Works on any tree of frozen dataclasses such as :class:`diamond_fast.config.RunConfig`. No torch.
"""

import difflib
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class Limits:
    """What a number must satisfy, as ``Annotated[int, Limits(minimum=1)]``; for a tuple, what each entry must.

    Floats must also be finite, unless ``infinite``. nan never passes.
    """

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    infinite: bool = False

    def broken_by(self, value: float) -> str | None:
        """What ``value`` should be instead, None if it is right."""
        if math.isnan(value) or (math.isinf(value) and not self.infinite):
            return "a finite number"
        if value < self.minimum:
            return f"at least {self.minimum}"
        if value > self.maximum:
            return f"at most {self.maximum}"
        if value <= self.above:
            return f"above {self.above}"
        return None


MOST = 2**31 - 1  # what every library below takes
PositiveInt = Annotated[int, Limits(minimum=1, maximum=MOST)]
CountInt = Annotated[int, Limits(minimum=0, maximum=MOST)]
BatchSize = Annotated[int, Limits(minimum=1, maximum=2**20)]
Width = Annotated[int, Limits(minimum=1, maximum=2**16)]
Depth = Annotated[int, Limits(minimum=1, maximum=64)]
Length = Annotated[int, Limits(minimum=1, maximum=2**12)]
Switch = Annotated[int, Limits(minimum=0, maximum=1)]
PositiveFloat = Annotated[float, Limits(above=0)]
NonNegativeFloat = Annotated[float, Limits(minimum=0)]
FiniteFloat = Annotated[float, Limits()]
Fraction = Annotated[float, Limits(minimum=0, maximum=1)]
Seed = Annotated[int, Limits(minimum=0, maximum=MOST)]
RgbChannels = Annotated[int, Limits(minimum=3, maximum=3)]


def require(condition: bool, path: str, message: str) -> None:
    """Raises ValueError, ``--flag: message``, for the setting at a dotted path unless the condition holds."""
    if not condition:
        raise ValueError(f"{flag(path)}: {message}")


def require_there(file: Path, path: str) -> None:
    """Raises ValueError for the setting at a dotted path unless the file or folder that it names exists."""
    require(file.exists(), path, f"there is nothing at {file}")


def flag(path: str) -> str:
    """``denoiser_update.lr`` -> ``--denoiser-update.lr``."""
    return "--" + ".".join(part.strip("_").replace("_", "-") for part in path.split("."))


def leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, annotated type, value) of every setting, in the order they are declared."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], value


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(dotted path, old value, new value) of each setting that differs."""
    pairs = zip(leaves(old), leaves(new), strict=True)
    return [(path, was, now) for (path, _, was), (_, _, now) in pairs if was != now]


def check_limits(settings: Any) -> None:
    """Hold every number against the :class:`Limits` of its type.

    Raises:
        ValueError: names the flag, the value and what would be right.
    """
    for path, hint, value in leaves(settings):
        for limits in _limits(hint):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and (right := limits.broken_by(number)):
                    raise ValueError(f"{flag(path)}: must be {right}, got {number}")


def to_json(settings: Any) -> dict[str, Any]:
    """Nested dicts, lists, numbers and strings, the infinities spelled out: any JSON reader takes it."""

    def encode(value: Any) -> Any:
        if is_dataclass(value):
            return to_json(value)
        if isinstance(value, tuple):
            return [encode(item) for item in value]
        return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {field.name: encode(getattr(settings, field.name)) for field in fields(settings)}


def from_json(default: T, data: Any, prefix: str = "") -> T:
    """The settings that :func:`to_json` was given; ``from_json(anything_of_that_class, to_json(s)) == s``.

    Args:
        default: where a setting comes from that ``data`` lacks, such as one that did not exist yet when it was written.
        data: what was read from JSON.
        prefix: of the settings' dotted paths, for messages.

    Raises:
        ValueError: names a setting that is unknown or of the wrong type.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{prefix.rstrip('.') or type(default).__name__}: expected an object, got {data!r}")
    annotations = get_type_hints(type(default))
    hints = {f.name: annotations[f.name] for f in fields(default)}
    for key in data:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            shown = key if key.isidentifier() else repr(key)
            meant = f" (did you mean {prefix}{close[0]}?)" if close else ""
            raise ValueError(f"{prefix}{shown}: unknown setting; it is misspelt{meant} or of a newer version")
    return replace(
        default, **{key: _decode(hints[key], item, getattr(default, key), prefix + key) for key, item in data.items()}
    )


def _decode(hint: Any, value: Any, default: Any, path: str) -> Any:
    if is_dataclass(hint):
        return from_json(default, value, f"{path}.")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
        return value
    if origin in (Union, UnionType):
        for option in arguments:
            try:
                return _decode(option, value, default, path)
            except ValueError:
                continue
    if origin is tuple and isinstance(value, list) and (arguments[-1] is ... or len(value) == len(arguments)):
        return tuple(_decode(arguments[0], item, None, path) for item in value)
    if hint is NoneType and value is None:
        return None
    if hint is float and (type(value) in (int, float) or value in ("inf", "-inf", "nan")):
        with suppress(OverflowError):  # whole numbers in JSON may have hundreds of digits
            return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    expected = " or ".join(map(str, arguments)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ValueError(f"{path}: expected {expected}, got {value!r}")


def _limits(hint: Any) -> list[Limits]:
    """The limits of a type, also those of a tuple's entries."""
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        return [extra for extra in extras if isinstance(extra, Limits)] + _limits(inner)
    return [limits for inner in get_args(hint) for limits in _limits(inner)]

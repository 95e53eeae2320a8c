"""Search spaces: modules of `tune_spaces`, or Python files of the user."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mrkd.config import SearchConfig
from mrkd.config.toml import nearest
from mrkd.errors import ConfigError
from mrkd.training.search.space import Domain, Drawn, NumberRange, OneOf, domain_of

Space = Mapping[str, Domain]

_PACKAGE = "tune_spaces"
_DRAWS = 20


def names() -> list[str]:
    """The spaces that come with mrkd."""
    try:
        package = importlib.import_module(_PACKAGE)
    except ModuleNotFoundError:
        return []
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name: str) -> Space:
    """A space by its name, or by the path of a Python file.

    Raises:
        ConfigError: it does not exist, or is not a mapping of keys to domains.
    """
    known = names()
    if name.endswith(".py"):
        module = _file(name)
    elif name in known:
        module = importlib.import_module(f"{_PACKAGE}.{name}")
    else:
        raise ConfigError(
            f"search.space is {name!r}{nearest(name, known)}; or a Python file with a SPACE"
        )
    space = getattr(module, "SPACE", None)
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(f"search.space {name!r} has no SPACE, a mapping of keys to domains")
    found: dict[str, Domain] = {}
    for key, value in space.items():
        try:
            domain = domain_of(value)
        except ConfigError as error:
            raise ConfigError(f"search.space {name!r}: {key}: {error}") from error
        if domain is None or not isinstance(key, str):
            raise ConfigError(
                f"search.space {name!r}: {key} is {value!r}, not a domain: use choice, uniform, "
                "loguniform or randint of mrkd.training.search.space, or one of ray.tune"
            )
        found[key] = domain
    return found


def check(space: Space, config: SearchConfig) -> None:
    """Checks that every key of a space is one of the config, and that the config takes its values.

    Raises:
        ConfigError: it does not, naming the key; or a key would change nothing.
    """
    for key, domain in space.items():
        section = key.partition(".")[0]
        if section not in ("model", "train") or key == "train.seed":
            raise ConfigError(
                f"search.space: {key} cannot be searched, keys of [model] and [train]"
            )
        for value in _edges(key, domain):
            try:
                config.trial({key: value}, seed=0)
            except ConfigError as error:
                raise ConfigError(f"search.space: {key} = {value!r} is refused: {error}") from error
    with_fmm = config.model.fmm or "model.fmm" in space
    masks = [key for key in space if key.startswith("train.mask")]
    if masks and not with_fmm:
        raise ConfigError(
            f"search.space varies {masks[0]}, which does nothing while model.fmm is false: set "
            "model.preset to masked or paper, or model.fmm to true"
        )


def digest(name: str, space: Space) -> str:
    """Sha256 of a space's domains; of one with functions, that of its file too."""
    content = repr(sorted((key, str(type(d)), str(d), repr(d)) for key, d in space.items()))
    if any(isinstance(domain, Drawn) for domain in space.values()):
        is_file = name.endswith(".py")
        content = importlib.util.decode_source(Path(name).read_bytes()) if is_file else name
    return hashlib.sha256(content.encode()).hexdigest()


def described(space: Space) -> dict[str, str]:
    """Each key of a space with its domain in words."""
    return {key: str(domain) for key, domain in space.items()}


def log_keys(space: Space) -> list[str]:
    """Keys that are drawn on a log scale."""
    return [key for key, domain in space.items() if isinstance(domain, NumberRange) and domain.log]


def choices(space: Space, key: str) -> list[Any]:
    """The choices of a key; empty where it is a range, or not in the space."""
    domain = space.get(key)
    return list(domain.values) if isinstance(domain, OneOf) else []


def _edges(key: str, domain: Domain) -> Iterator[Any]:
    """Values that a config must take: every choice; the ends of a range and some between."""
    if isinstance(domain, OneOf):
        yield from domain.values
        return
    if isinstance(domain, NumberRange):
        yield domain.low
    rng = np.random.default_rng(0)
    try:
        yield from [domain.draw(rng) for _ in range(_DRAWS)]
    except ConfigError as error:
        raise ConfigError(f"search.space: {key}: {error}") from error


def _file(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    try:
        is_file = Path(path).is_file()
    except OSError as error:
        raise ConfigError(f"search.space {path!r} cannot be read: {error.strerror}") from error
    if spec is None or spec.loader is None or not is_file:
        raise ConfigError(f"search.space {path!r} does not exist: check the path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    # A person's code: whatever it does wrong, sys.exit() too, is theirs to mend.
    except (Exception, SystemExit) as error:
        called = traceback.extract_tb(error.__traceback__)
        lines = [one.lineno for one in called if one.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = f"{path} line {line}" if line else path
        raise ConfigError(f"search.space: {where}: {type(error).__name__}: {error}") from error
    return module

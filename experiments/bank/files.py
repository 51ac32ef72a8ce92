"""Banks as `lossrag bank` is told of them, and files it writes."""

from __future__ import annotations

from pathlib import Path

from lossrag.errors import ConfigError
from lossrag.experiments.run.learned_losses import open_bank
from lossrag.files import check_target, expanded
from lossrag.lossbank import LossBank


def told_bank(given: object) -> LossBank:
    """The bank that ``bank=builtin`` or ``bank=FILE`` means; raises BankError when there is none or it is damaged."""
    bank = open_bank(str(given))
    if bank is None:
        raise ConfigError(f"bank={given} knows nothing: name a file, or bank=builtin.")
    return bank


def writable(name: object, key: str = "output") -> Path:
    """The file to write to; raises ConfigError unless its folder exists, and for a device or a link, which
    would be replaced."""
    target = expanded(str(name), key)
    try:
        if target.is_dir() or not target.parent.is_dir():
            raise ConfigError(f"Cannot write {key}={target}: name a file in a folder that exists.")
        check_target(target)
    except OSError as error:
        raise ConfigError(f"Cannot write {key}={target}: {error}.") from None
    return target


def own_bank(name: object, key: str) -> Path:
    """The file of a bank of one's own to write to, of a name that means no other bank."""
    if str(name) in ("builtin", "none"):
        raise ConfigError(f"{key}={name} is no bank of yours: name a file to keep one in.")
    return writable(name, key)

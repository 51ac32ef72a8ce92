"""Records of TensorBoard's event files, each of which carries two CRCs of its own (the TFRecord format)."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from lossrag.files import GIB, read_file
from lossrag.proof import DamagedFile

HEAD, FOOT = 12, 4
"""Bytes around a record: its length and the CRC of that; the CRC of its content."""


def check_records(path: Path, ended: bool = False) -> int:
    """The number of records in an event file; raises DamagedFile, with its number, for the first that is damaged.

    ended: a last record that a kill tore is damage, too. Raises OSError for a file that cannot be read.
    """
    content = read_file(path, 4 * GIB)
    place = count = 0
    while place < len(content):
        count += 1
        head = content[place : place + HEAD]
        whole = len(head) == HEAD
        length = struct.unpack("<Q", head[:8])[0] if whole else 0
        if whole and masked_crc32c(head[:8]) != struct.unpack("<I", head[8:])[0]:
            raise DamagedFile(f"record {count}: the CRC of its length does not match")
        end = place + HEAD + length + FOOT
        if not whole or end > len(content):
            if ended:
                raise DamagedFile(f"record {count}: it breaks off")
            return count - 1
        if masked_crc32c(content[place + HEAD : end - FOOT]) != struct.unpack("<I", content[end - FOOT : end])[0]:
            raise DamagedFile(f"record {count}: its CRC does not match")
        place = end
    return count

"""Random changes of a file's bytes: what bad disks, broken transfers and malice make of it."""

from __future__ import annotations

import random
import re
import struct

NUMBERS = (0, 1, 2, 3, 255, 256, 32767, -1, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 16, 2**63 - 1)
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 0.5, 352.0, 1e9)
WORDS = (b"300", b"-1", b"0", b"nan", b"inf", b"1e400", b"%s%n", b"../../etc/passwd", b"/dev/zero", b"LIST", b"True",
         b"MET_DOUBLE", b"(", b")", b"none", b"99999999999999999999", b"", b"\xff\xfe", b"A" * 5000)  # fmt: skip


def change(data: bytes, header_bytes: int, is_text: bool, chance: random.Random) -> tuple[bytes, list[str]]:
    """Change a file in one to three ways, its header mostly; returns it and the ways in words."""
    changed, told = bytearray(data), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        ways = [_bits, _byte, _cut, _grown, _number, _number, _float, _moved, _repeated]
        if is_text:
            ways += [_word] * 8
        told.append(chance.choice(ways)(changed, min(header_bytes, len(changed)) or 1, chance))
    return bytes(changed), told


def _at(header: int, data: bytearray, chance: random.Random) -> int:
    """A place in the header mostly, else anywhere."""
    return chance.randrange(header if chance.random() < 0.8 else max(len(data), 1))


def _bits(data: bytearray, header: int, chance: random.Random) -> str:
    at = _at(header, data, chance)
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    return f"a bit at {at}"


def _byte(data: bytearray, header: int, chance: random.Random) -> str:
    at = _at(header, data, chance)
    data[at : at + 1] = bytes([chance.randrange(256)])
    return f"byte {at}"


def _cut(data: bytearray, header: int, chance: random.Random) -> str:
    at = _at(header, data, chance)
    del data[at:]
    return f"cut at {at}"


def _grown(data: bytearray, header: int, chance: random.Random) -> str:
    more = chance.choice((1, 4, 1000, 100_000))
    data.extend(chance.randbytes(more))
    return f"{more} bytes more"


def _number(data: bytearray, header: int, chance: random.Random) -> str:
    form, number = chance.choice("hiqHIQ"), chance.choice(NUMBERS)
    packed = struct.pack("<q" if number < 0 else "<Q", number)[: struct.calcsize(form)]
    at = _at(header, data, chance) & ~1
    data[at : at + len(packed)] = packed
    return f"{number} as {len(packed)} bytes at {at}"


def _float(data: bytearray, header: int, chance: random.Random) -> str:
    at, number = _at(header, data, chance) & ~3, chance.choice(FLOATS)
    data[at : at + 4] = struct.pack("<f", number)
    return f"{number} as a float at {at}"


def _moved(data: bytearray, header: int, chance: random.Random) -> str:
    at, length = _at(header, data, chance), chance.choice((1, 2, 4, 16))
    del data[at : at + length]
    return f"{length} bytes lost at {at}"


def _repeated(data: bytearray, header: int, chance: random.Random) -> str:
    at, length = _at(header, data, chance), chance.choice((1, 2, 40))
    data[at:at] = data[at : at + length]
    return f"{length} bytes twice at {at}"


def _word(data: bytearray, header: int, chance: random.Random) -> str:
    words = list(re.finditer(rb"[^\s=:(),]+", bytes(data[:header])))
    if not words:
        return "no word left"
    word, new = chance.choice(words), chance.choice(WORDS)
    data[word.start() : word.end()] = new
    return f"{word.group()[:30]!r} became {new[:30]!r}"

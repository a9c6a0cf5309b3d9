"""Random numbers as a pure function of (seed, epoch, sample, draw): no state, no order, no rank."""

from enum import IntEnum, unique

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


@unique
class Draw(IntEnum):
    """What a number is drawn for; every purpose has a stream of its own."""

    SPLIT = 0
    SHUFFLE = 1
    CROP_ROW = 2
    CROP_COLUMN = 3
    FLIP = 4
    MIX = 5
    TRANSFORM = 6
    STRONG_TRANSFORM = 7
    STRONG_FLIP = 8
    TURN = 9
    ZOOM = 10
    SHEAR_X = 11
    SHEAR_Y = 12
    SHIFT_X = 13
    SHIFT_Y = 14
    BRIGHTNESS = 15
    CONTRAST = 16
    CUT_ROW = 17
    CUT_COLUMN = 18
    CUT_SIDE = 19
    MIX_SHARE = 20
    SUBSET = 21
    SHAPE = 22
    SHAPE_NOISE = 23


def key(*words: int) -> int:
    """Hash integers into the 64-bit key of a stream; their order matters.

    Example:
        >>> key(0, 1) == key(0, 1), key(0, 1) == key(1, 0)
        (True, False)
    """
    state = len(words)
    for word in words:
        state = _scramble((state ^ (word & _WORD)) + _GOLDEN & _WORD)
    return state


def bits(stream: int, counter: Tensor) -> Tensor:
    """The 64 random bits at each position of a stream: SplitMix64 with random access.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. Integer arithmetic
    alone, so every device gives the same bits.

    Args:
        stream: Key of the stream, see :func:`key`.
        counter: Positions, int64 of any shape.

    Returns:
        int64 of the same shape; read them as unsigned.
    """
    z = (counter + 1) * _signed(_GOLDEN) + _signed(stream)
    for shift, factor in _ROUNDS:
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return z ^ _shifted(z, _LAST_SHIFT)


def uniform(seed: int, epoch: int, draw: Draw, index: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), one a sample.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        draw: What the numbers are for.
        index: Which sample, int64 of any shape.

    Returns:
        float32 of the same shape, multiples of 2⁻²⁴.

    Example:
        >>> one = uniform(0, 3, Draw.FLIP, torch.tensor([7]))
        >>> many = uniform(0, 3, Draw.FLIP, torch.arange(10))
        >>> bool(one == many[7])
        True
    """
    return _shifted(bits(key(seed, epoch, draw), index), 40).float() * 2.0**-24


def permutation(seed: int, epoch: int, draw: Draw, size: int) -> Tensor:
    """A random order of ``range(size)``, int64 ``(size,)``; the same with every version of torch.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        draw: What the order is for.
        size: How many.
    """
    return bits(key(seed, epoch, draw), torch.arange(size)).argsort(stable=True)


def _scramble(z: int) -> int:
    for shift, factor in _ROUNDS:
        z = (z ^ z >> shift) * factor & _WORD
    return z ^ z >> _LAST_SHIFT


def _signed(word: int) -> int:
    """The int64 with the same bits: torch has no arithmetic on unsigned words."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, places: int) -> Tensor:
    """Right shift that fills with zeros, where torch's own repeats the sign."""
    return (z >> places) & ((1 << (64 - places)) - 1)

"""The partition of a key: murmur2 as in Java's default partitioner and librdkafka's `murmur2_random`.

Pure. All writers of the log must agree on it: an order's command, event and refusal share it, and consumers that
join topics by partition rely on it. Source: `org.apache.kafka.common.utils.Utils.murmur2` and `toPositive`.
"""

from __future__ import annotations

from functools import lru_cache
from struct import unpack_from

_M = 0x5BD1E995
_SEED = 0x9747B28C
_U32 = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit murmur2 of `data` as an unsigned int (Java prints the same bits signed)."""
    length = len(data)
    h = _SEED ^ length
    for word in unpack_from(f"<{length >> 2}I", data):
        k = word * _M & _U32
        h = (h * _M ^ (k ^ k >> 24) * _M) & _U32
    tail_length = length & 3
    if tail_length:
        h = (h ^ int.from_bytes(data[-tail_length:], "little")) * _M & _U32
    h = (h ^ h >> 13) * _M & _U32
    return h ^ h >> 15


@lru_cache(16_384)  # the hash takes 3 us, and the same orders are requested repeatedly
def partition_for(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions`: the hash without its sign bit, modulo."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions

"""Freed memory stays with the process."""

import resource

import pytest

from mm.engine.memory import MEBIBYTE, keep_freed_memory


def faults_of_a_round() -> int:
    """Pages that the system has to hand over when 50 MiB are taken and given back."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(MEBIBYTE) for _ in range(50)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_second_round_takes_no_new_pages() -> None:
    if not keep_freed_memory():
        pytest.skip("this system has no glibc malloc")
    faults_of_a_round()
    pages = 50 * MEBIBYTE // resource.getpagesize()
    assert faults_of_a_round() < pages / 20

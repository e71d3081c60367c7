"""Shards: every case belongs to one, whatever else there is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kits.batch.shards import Shard
from kits.errors import KitsError
from kits.io.cases import Case


@given(names=st.sets(st.text(min_size=1), max_size=40), count=st.integers(1, 9))
def test_each_case_is_in_one_shard_whatever_others_there_are(names: set[str], count: int) -> None:
    cases = [Case(name, Path(name), name) for name in sorted(names)]
    shards = [Shard(number, count) for number in range(1, count + 1)]
    assert sorted(case.name for shard in shards for case in shard.of(cases)) == sorted(names)
    for shard in shards:
        assert shard.of(cases) == [case for case in cases if case in shard.of([case])]


def test_shards_are_of_like_size() -> None:
    cases = [Case(str(number), Path("scan"), f"prediction_{number:05d}.nii.gz") for number in range(4000)]
    sizes = [len(Shard(number, 8).of(cases)) for number in range(1, 9)]
    assert max(sizes) < 1.2 * min(sizes)


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "a/b", "1/2/3", "-1/2", "1.0/2"])
def test_what_is_no_share_is_a_sentence(text: str) -> None:
    with pytest.raises(KitsError, match="give K/N"):
        Shard.parse(text)


def test_a_share_is_counted_from_one() -> None:
    assert Shard.parse("3/16") == Shard(3, 16)


@given(names=st.sets(st.text(min_size=1), max_size=40), count=st.integers(1, 5), parts=st.integers(1, 5))
def test_a_share_is_the_sum_of_its_parts(names: set[str], count: int, parts: int) -> None:
    cases = [Case(name, Path(name), name) for name in sorted(names)]
    share = Shard(count, count)
    found = [case.name for number in range(1, parts + 1) for case in share.part(number, parts).of(cases)]
    assert sorted(found) == [case.name for case in share.of(cases)]

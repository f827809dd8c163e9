from encoder_svc.cache import BoundedCache


def test_the_least_recently_used_entry_goes_first():
    cache = BoundedCache[str](10)
    cache.put("a", "A", 5)
    cache.put("b", "B", 5)
    assert cache.get("a") == "A"
    cache.put("c", "C", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", None, "C")


def test_several_small_entries_give_way_to_a_large_one():
    cache = BoundedCache[str](10)
    for key in "abcde":
        cache.put(key, key, 2)
    cache.put("large", "L", 7)
    assert [key for key in ("a", "b", "c", "d", "e", "large") if cache.get(key)] == ["e", "large"]


def test_an_entry_above_the_bound_is_not_kept_and_displaces_nothing():
    cache = BoundedCache[str](10)
    cache.put("a", "A", 5)
    cache.put("large", "L", 11)
    assert (cache.get("a"), cache.get("large")) == ("A", None)


def test_a_cache_of_zero_bytes_keeps_nothing():
    cache = BoundedCache[str](0)
    cache.put("a", "A", 1)
    assert cache.get("a") is None

from benchmarks.quality import figures, report


def columns(generated: float, spread: float = 0.0) -> dict[str, report.Values]:
    values = [generated - spread, generated + spread] * 10
    return {
        report.GENERATED: [{figures.KEY: [value], figures.GENRE: [value]} for value in values],
        report.REAL: [{figures.KEY: [0.5], figures.GENRE: [1.0]}],
    }


def test_a_mean_on_the_right_side_reaches_its_bound():
    assert report.summarise(columns(0.8))[figures.GENRE]["reached"] is True
    assert report.summarise(columns(0.79))[figures.GENRE]["reached"] is False


def test_a_bound_on_the_interval_is_not_reached_by_the_mean_alone():
    assert report.summarise(columns(0.1, spread=0.05))[figures.KEY]["reached"] is True
    assert report.summarise(columns(0.1, spread=0.9))[figures.KEY]["reached"] is False


def test_a_figure_that_must_be_small_is_reached_from_below():
    bound = figures.BOUNDS[figures.SWAP_OLD]
    assert bound is not None
    assert bound.reached(report.Estimate(0.05, 0.0, 0.2, 9))
    assert not bound.reached(report.Estimate(0.15, 0.0, 0.2, 9))


def test_the_table_says_what_is_reached():
    text = report.table(report.summarise(columns(0.3)), "10 s")
    assert "NOT reached" in next(line for line in text.splitlines() if line.startswith(figures.GENRE))
    assert "0.300 [0.300, 0.300] n=20" in text

import pytest

from pyro_ext.utils.tables import csv_table, markdown_table


def test_columns_are_straight_and_bars_escaped():
    table = markdown_table([["a|b", 1], ["c", 22]], ["name", "n"])
    assert table == "| name |  n |\n|:-----|---:|\n| a\\|b |  1 |\n| c    | 22 |"


def test_a_table_without_rows_is_its_header():
    assert markdown_table([], ["x"]) == "| x |\n|:--|"


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 cells each"):
        markdown_table([["a"]], ["x", "y"])


def test_values_with_commas_are_quoted_and_columns_chosen():
    rows = [{"a": "x, y", "b": 1}]
    assert csv_table(rows) == 'a,b\n"x, y",1\n'
    assert csv_table(rows, ["b", "a"], header=False) == '1,"x, y"\n'

"""Tables as text, in every form that they are written in."""

import pytest

from ivideogpt_hf.evaluation.tables import as_csv, as_latex, as_markdown, write_table

ROWS = [{"psnr": 24.0625, "name": "a & b"}, {"psnr": 23.5, "name": "c_d", "seed": 1}]


def test_metrics_come_last_and_what_is_missing_is_a_dash():
    assert as_markdown(ROWS).splitlines()[0].split() == ["|", "name", "|", "seed", "|", "psnr", "|"]
    assert as_markdown(ROWS).splitlines()[2].split("|")[2].strip() == "-"


def test_latex_escapes_what_means_something_to_it():
    assert r"a \& b & - & 24.06 \\" in as_latex(ROWS)
    assert r"c\_d & 1 & 23.5 \\" in as_latex(ROWS)


def test_csv_has_numbers_in_full():
    assert as_csv(ROWS) == "name,seed,psnr\na & b,,24.0625\nc_d,1,23.5\n"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"written as .md, .csv, .tex, not as table.docx"):
        write_table(ROWS, tmp_path / "table.docx")

"""The gallery is that of its tables: page and figures are written from them, and are not stale."""

import pytest
from PIL import Image

from docs import gallery
from training.studies import STUDIES
from training.studies.frame import Row, csv_text, module_of


def test_the_page_is_not_stale():
    """If this fails: python -m docs.gallery."""
    assert gallery.PAGE.read_text() == gallery.page()


@pytest.mark.parametrize("name", STUDIES)
def test_the_figure_of_a_study_was_drawn_from_its_table(name):
    table = gallery.table_of(name)
    with Image.open(table.with_suffix(".png")) as picture:
        assert picture.text[gallery.TABLE] == gallery.digest(table)


def test_a_table_that_changes_changes_the_page(tmp_path, monkeypatch):
    for attribute, place in (("LECTURE", tmp_path), ("PAGE", tmp_path / "lecture.md")):
        monkeypatch.setattr(gallery, attribute, place)
    claims = module_of("pointwise").CLAIMS
    for value, outcome in ((0.0, "reproduced"), (1.0, "contradicted")):
        rows = [Row(claims[0].quantity, "1x1", "", seed, value) for seed in range(3)]
        rows += [Row(claim.quantity, "1x1", "", None, 0.0) for claim in claims[1:]]
        rows.append(Row("minutes", "", "", None, 2.0))
        (tmp_path / "new" / "pointwise").mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / "pointwise" / "pointwise.csv").write_text(csv_text(rows))
        gallery.main(tmp_path / "new")
        text = (tmp_path / "lecture.md").read_text()
        assert f"| {value:.4g} | {value:.3g} to {value:.3g} | 3 | {outcome} |" in text
        assert "2.0 minutes" in text
        assert "Not measured." in text
        assert (tmp_path / "pointwise.png").exists()

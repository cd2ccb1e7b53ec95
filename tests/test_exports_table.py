"""The table of exports: every family in every format has its row in the documentation."""

import numpy as np

import keras_cnns
from docs import exports_table
from docs.exports_table import FORMATS, HEADER, NETWORKS, PAGE
from tests.small_networks import build
from training.errors import ResourceError


def test_the_networks_are_of_different_families():
    families = {exports_table.family(name) for name in NETWORKS}
    assert len(families) == len(NETWORKS) == 8
    assert exports_table.family("ResNetCIFAR") == exports_table.family("ResNet50") == "resnet"


def test_the_page_has_a_row_of_every_network_and_format():
    _, _, table = PAGE.read_text().partition(HEADER)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.partition("<!--")[0].splitlines()]
    assert [row[:2] for row in rows] == [[name, kind] for name in NETWORKS for kind in FORMATS]
    assert all(all(row[2:6]) and len(row) == 7 for row in rows)  # measured, or the reason why not
    int8 = [row for row in rows if row[1] == "LiteRT, int8" and row[2] != "-"]
    assert int8 and all("then" in row[6] for row in int8)


def test_images_per_second_counts_images(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(exports_table.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    assert exports_table.per_second(calls.append, np.zeros((8, 2))) == 8 * (len(calls) - 1) / 4


def test_a_network_that_has_seen_the_images_has_their_statistics_and_offsets():
    network, images = build("DeformableResNet50"), np.random.RandomState(0).uniform(0, 255, (4, 64, 64, 3))
    exports_table.see(network, images)
    x = keras_cnns.preprocess_input(images)
    np.testing.assert_allclose(network(x, training=False), network(x, training=True), rtol=0.05)
    assert all(np.any(variable) for variable in network.weights if variable.path.endswith("offset_kernel"))


def test_a_process_that_was_killed_is_a_reason(monkeypatch, tmp_path):
    def killed(*arguments):
        raise ResourceError("killed")

    monkeypatch.setattr(exports_table, "PAGE", tmp_path / "exports.md")
    monkeypatch.setattr(exports_table, "alone", killed)
    exports_table.PAGE.write_text(PAGE.read_text())
    exports_table.main(["VGG16"])
    rows = exports_table.in_page()
    assert {rows["VGG16", kind][1] for kind in FORMATS} == {"not enough memory"}
    assert rows["VGG16", "LiteRT, int8"][-1].startswith("VGG11: ")  # the accuracy stays

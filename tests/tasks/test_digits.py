from __future__ import annotations

import pytest
import sklearn.datasets
import torch

from lossrag import ConfigError
from lossrag.tasks import SPLITS, DigitsConfig, load_suite
from lossrag.tasks.table.new_rows import read_rows


def test_digits_suite_is_complete_and_disjoint():
    suite = load_suite("digits", rho=0.2, validation=0.25)
    rows = {split: suite.splits[split][0].inputs.values for split in SPLITS}
    assert sum(map(len, rows.values())) == 1797
    assert torch.cat(list(rows.values())).unique(dim=0).shape[0] == 1797
    assert suite.shared_input
    assert suite.input_shape == (64,)
    assert all(values.dtype == torch.float32 and values.min() >= 0 and values.max() <= 1 for values in rows.values())
    train = 1797 - len(rows["test"])
    assert abs(len(rows["test"]) - 0.2 * 1797) < 1
    assert abs(len(rows["validation"]) - 0.25 * train) < 1
    assert abs(len(rows["query"]) - 0.2 * (train - len(rows["validation"]))) < 1


def test_targets_agree_with_the_digit():
    for examples in load_suite("digits").splits.values():
        digit, parity, loops, centre = (each.targets for each in examples)
        assert torch.equal(parity, digit % 2)
        assert [sorted(digit[loops == i].unique().tolist()) for i in range(3)] == [[1, 2, 3, 5, 7], [0, 4, 6, 9], [8]]
        assert centre.shape == (len(digit), 2)
        assert centre.dtype == torch.float32
        assert len({id(each.inputs) for each in examples}) == 1


def test_centre_of_mass_by_a_plain_loop_standardised_on_training_images():
    suite = load_suite("digits")
    raw, scaled = [], []
    for split in ("support", "query"):
        images = suite.splits[split][0].inputs.values.double().view(-1, 8, 8)
        scaled.append(suite.splits[split][3].targets.double())
        for image in images.tolist():
            cells = [(r, c, image[r][c]) for r in range(8) for c in range(8)]
            mass = sum(ink for _, _, ink in cells)
            raw.append([sum(r * ink for r, _, ink in cells) / mass, sum(c * ink for _, c, ink in cells) / mass])
    expected = torch.tensor(raw, dtype=torch.float64)
    expected = (expected - expected.mean(0)) / expected.std(0, correction=0)
    torch.testing.assert_close(torch.cat(scaled), expected, atol=1e-5, rtol=1e-5)


def test_seed_decides_the_split():
    first, again, other = (load_suite("digits", seed=seed).splits["test"][0].targets for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"validation": 1.0}, {"seed": -1}])
def test_settings_that_cannot_work(options):
    with pytest.raises(ConfigError, match=r"^DigitsConfig: (rho|validation|seed) must be (in \(0, 1\)|0 or more), got"):
        DigitsConfig(**options)


def test_images_of_scikit_learn_become_the_inputs_of_the_suite():
    """Its columns are the preprocessing's; targets come back in pixels."""
    suite = load_suite("digits")
    found = sklearn.datasets.load_digits()
    rows = [
        {**dict(zip(found.feature_names, image, strict=True)), "centre_row": 3.5, "centre_column": 4.0, "parity": "odd"}
        for image in found.data.tolist()
    ]
    read = read_rows(rows, suite.preprocessing)
    images = {tuple(image) for split in SPLITS for image in suite.splits[split][0].inputs.values.tolist()}
    assert images == {tuple(image) for image in read.dense().values.tolist()}
    digit, parity, _, centre = suite.preprocessing.targets
    assert read.targets(digit) is None
    assert (read.targets(parity) == 1).all()
    task = suite.tasks[3]
    back = read.targets(centre)[0].double() * torch.tensor(task.scale) + torch.tensor(task.mean)
    assert torch.allclose(back, torch.tensor([3.5, 4.0], dtype=torch.float64), atol=1e-6)

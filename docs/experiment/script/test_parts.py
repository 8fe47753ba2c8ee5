"""Run by e2e/tests/experiment.rs, with NumPy alone."""

from __future__ import annotations

import unittest

import numpy as np

import complexity
import routing
from combine import combined_labels
from confidence import METHODS, confidence, tempered
from temperature import calibration_error, fitted_temperature

ROWS = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])


class Confidence(unittest.TestCase):
    def test_each_method_gives_what_its_definition_says(self) -> None:
        np.testing.assert_allclose(confidence("Probability", ROWS), [0.7, 1, 1 / 3])
        np.testing.assert_allclose(confidence("Margin", ROWS), [0.5, 1, 0], atol=1e-12)
        entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1)) / np.log(3)
        np.testing.assert_allclose(confidence("Entropy", ROWS), [1 - entropy, 1, 0], atol=1e-12)

    def test_a_temperature_divides_the_scores_before_the_softmax(self) -> None:
        logits = np.array([[2.0, 1.0, -1.0]])
        softmax = lambda scores: np.exp(scores) / np.exp(scores).sum()  # noqa: E731
        np.testing.assert_allclose(tempered(softmax(logits), 2.5), softmax(logits / 2.5))

    def test_with_two_classes_all_methods_give_the_same_order(self) -> None:
        first = np.random.default_rng(0).uniform(size=200)
        rows = np.stack([first, 1 - first], axis=1)
        orders = [np.argsort(confidence(method, rows, 0.7)).tolist() for method in METHODS]
        self.assertEqual(orders[0], orders[1])
        self.assertEqual(orders[0], orders[2])


class Temperature(unittest.TestCase):
    def test_labels_drawn_from_tempered_probabilities_give_the_temperature_back(self) -> None:
        dice = np.random.default_rng(0)
        rows = dice.dirichlet(np.ones(4), 4000)
        labels = (tempered(rows, 1.6).cumsum(axis=1) < dice.uniform(size=(4000, 1))).sum(axis=1)
        self.assertAlmostEqual(fitted_temperature(rows, labels), 1.6, delta=0.1)

    def test_answers_that_are_as_often_right_as_they_say_have_no_calibration_error(self) -> None:
        right = np.arange(100) < 75
        self.assertAlmostEqual(calibration_error(np.full(100, 0.75), right), 0)
        self.assertAlmostEqual(calibration_error(np.full(100, 0.95), right), 0.2)


class Routing(unittest.TestCase):
    device = np.array([False, True, False, True])
    cloud = np.array([True, True, False, False])

    def test_a_curve_begins_at_the_device_and_ends_at_the_cloud(self) -> None:
        curve = routing.by_share(np.array([0.1, 0.2, 0.3, 0.4]), self.device, self.cloud)
        np.testing.assert_allclose(curve[[0, 25, 50, 75, 100]], [0.5, 0.75, 0.75, 0.75, 0.5])

    def test_what_an_order_does_not_tell_apart_goes_up_at_random(self) -> None:
        curve = routing.by_share(np.array([0.1, 0.1, 0.3, 0.4]), self.device, self.cloud)
        self.assertAlmostEqual(curve[25], 0.625)
        np.testing.assert_allclose(routing.random_by_share(self.device, self.cloud), 0.5)

    def test_the_oracle_captures_everything_and_sending_at_random_nothing(self) -> None:
        for curve, expected in ((routing.oracle_by_share, 1), (routing.random_by_share, 0)):
            found = routing.captured(curve(self.device, self.cloud), self.device, self.cloud)
            self.assertAlmostEqual(found, expected)

    def test_an_answer_counts_where_its_confidence_is_above_the_threshold(self) -> None:
        gate = routing.gate(np.array([0.5, 0.9, 0.5, 0.9]), 0.5, self.device, self.cloud)
        self.assertEqual((gate["share"], gate["accuracy"]), (0.5, 0.75))


class Complexity(unittest.TestCase):
    def test_entropy_is_0_of_one_value_and_1_of_256_different_ones(self) -> None:
        self.assertEqual(complexity.entropy(np.full(64, 3)), 0)
        self.assertAlmostEqual(complexity.entropy(np.arange(256)), 1)
        self.assertAlmostEqual(complexity.entropy(np.array([0, 0, 16, 16])), 1 / 8)

    def test_the_area_is_half_where_a_measure_says_nothing_and_1_where_it_says_all(self) -> None:
        wrong = np.array([True, False, True, False])
        self.assertEqual(complexity.auc(np.ones(4), wrong), 0.5)
        self.assertEqual(complexity.auc(np.array([2.0, 1, 3, 0]), wrong), 1)
        self.assertEqual(complexity.auc(np.array([0.0, 1, 1, 0]), wrong), 0.5)


class Combine(unittest.TestCase):
    # Three members, one request.
    members = [np.array([[0.6, 0.4, 0.0]]), np.array([[0.55, 0.0, 0.45]]), np.array([[0.0, 0.9, 0.1]])]

    def label(self, combination: str, members: int = 3) -> int:
        return int(combined_labels(combination, self.members[:members], [5.0, 1.0, 1.0][:members])[0])

    def test_each_combination_decides_by_its_own_rule(self) -> None:
        self.assertEqual(self.label("Mean"), 1)
        self.assertEqual(self.label("WeightedMean"), 0)
        self.assertEqual(self.label("Vote"), 0)
        self.assertEqual(self.label("MaxConfidence"), 1)

    def test_where_as_many_vote_for_one_as_for_the_other_the_surest_decides(self) -> None:
        two = [self.members[0], self.members[2]]
        self.assertEqual(combined_labels("Vote", two, [1, 1])[0], 1)


if __name__ == "__main__":
    unittest.main()

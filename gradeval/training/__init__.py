"""TRAIN: `train`, training with every estimator under one protocol."""

"""Given uniform variables stand for all chance."""

from __future__ import annotations

import torch

from gradeval.model.randomness import GivenUniforms, generator


def test_given_uniforms_stand_for_all_chance() -> None:
    uniforms = torch.tensor([0.2, 0.7, 0.5, 0.9], dtype=torch.float64)
    chance = GivenUniforms(uniforms, generator("cpu", 1))
    assert chance.bernoulli(torch.tensor([0.3, 0.3], dtype=torch.float64)).tolist() == [1, 0]
    assert chance.normal([1]).item() == 0
    beyond = chance.uniform([3])
    assert beyond[0] == 0.9
    assert chance.taken == 6
    assert ((beyond > 0) & (beyond < 1)).all()

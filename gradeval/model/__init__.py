"""The model: stochastic binary networks, their maps and noise, losses, and a problem that puts them together."""

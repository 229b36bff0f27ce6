"""The objective of a variational autoencoder with binary codes: the negative evidence lower bound (ELBO)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradeval.errors import GradevalError, unknown_name
from gradeval.model.head_loss import HeadLoss, PointLoss
from gradeval.model.losses import bernoulli, check_targets
from gradeval.model.maps import BernoulliDecoder
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.objective import WithConstant

KL_FORMS = ("sampled", "analytic")
"""The forms of the KL divergence in `NegativeElbo`."""


@dataclass(frozen=True)
class NegativeElbo:
    """J = mean over points of E_{s ~ q(s|x)}[−log p(x|s) − log p(s) + log q(s|x)] = mean of E[−log p(x|s)] + KL(q‖p).

    q(s|x) is the network's one stochastic layer, p(x|s) a product of Bernoulli variables with the head's logits, and
    p(s) of independent units with the head's prior logits. x in p(x|s) are the problem's targets, from 0 to 1.
    Both forms of the KL have the same J and the same ∇J:

    * "sampled": f(s) = −log p(x|s) − log p(s) + log q(s|x). f depends on the encoder's parameters. At states between 0
      and 1, as relaxations have them, it is the multilinear extension: s log q(1) + (1 − s) log q(0), of every unit.
    * "analytic": f(s) = −log p(x|s), to which Σⱼ KL(qⱼ‖pⱼ) is added as a constant (`WithConstant`): the same gradient,
      without noise, for every estimator.

    Args:
        kl: "sampled" or "analytic".

    Raises:
        GradevalError: another form.

    Source: Kingma & Welling, ICLR 2014, arXiv:1312.6114, eq. 3; with binary codes Mnih & Gregor, ICML 2014,
    arXiv:1402.0030; the sampled form as in Tucker et al., NeurIPS 2017, arXiv:1703.07370.

    Examples:
        >>> from torch import nn
        >>> from gradeval import Problem, exact_gradient
        >>> encoder, decoder = nn.Linear(5, 2), BernoulliDecoder(nn.Linear(2, 5), torch.zeros(2))
        >>> network = StochasticBinaryNetwork([encoder], decoder)
        >>> pixels = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
        >>> first, second = (exact_gradient(Problem(network, pixels, pixels, NegativeElbo(kl))) for kl in KL_FORMS)
        >>> torch.testing.assert_close(first.vector, second.vector)
    """

    kl: str = "sampled"

    def __post_init__(self) -> None:
        if self.kl not in KL_FORMS:
            raise unknown_name("form of the KL", str(self.kl), KL_FORMS)

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> PointLoss:
        """The objective as a function of the states.

        Args:
            network: with one stochastic layer and a `BernoulliDecoder` for a head.
            inputs: what the encoder sees, [points, inputs].
            targets: x in p(x|s), [points, outputs].

        Returns:
            x_L ↦ f(x_L), [..., points, units] -> [..., points].

        Raises:
            GradevalError: the network is another one.
        """
        reconstruction = HeadLoss(_decoder_of(network).map, bernoulli, targets)
        if self.kl == "analytic":
            return WithConstant(reconstruction, self.divergence(network, inputs))
        return _SampledElbo(reconstruction, network.layers[0], *_log_ratios(network, inputs))

    def divergence(self, network: StochasticBinaryNetwork, inputs: Tensor) -> Float[Tensor, " points"]:
        """KL(q(s|x)‖p(s)) = Σⱼ qⱼ log qⱼ/πⱼ + (1 − qⱼ) log (1 − qⱼ)/(1 − πⱼ), exact.

        Args:
            network: as of `bind`.
            inputs: what the encoder sees, [points, inputs].

        Returns:
            The divergence of every point, [points], differentiable in encoder and prior.

        Raises:
            GradevalError: the network is another one.
        """
        _decoder_of(network)
        layer = network.layers[0]
        a = layer.preactivation(inputs)
        on, off = _log_ratios(network, inputs)
        return (layer.probability(a) * on + layer.probability(-a) * off).sum(-1)

    def check(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> None:
        """Refuse a network or targets that the objective has no meaning for.

        Args:
            network: must have one stochastic layer and a `BernoulliDecoder` with a prior logit for each unit.
            inputs: [points, inputs].
            targets: must be from 0 to 1, [points, outputs].

        Raises:
            GradevalError: something does not fit; the message says what.
        """
        decoder = _decoder_of(network)
        units = network.layers[0].preactivation(inputs[:1]).shape[-1]
        if decoder.prior_logits.shape != (units,):
            found = list(decoder.prior_logits.shape)
            raise GradevalError(f"the decoder's prior_logits must have the shape [{units}], one a unit, found {found}.")
        check_targets("bernoulli", targets, decoder(inputs.new_zeros(1, units)).shape[-1])


IN_FILES = {f"negative-elbo:kl={kl}": NegativeElbo(kl) for kl in KL_FORMS}
"""What problem files call the objectives of this module."""


@dataclass(frozen=True)
class _SampledElbo:
    """−log p(x|s) + Σⱼ log q(sⱼ|x)/p(sⱼ); ``on`` and ``off`` are that log-ratio at sⱼ = 1 and 0, [points, units]."""

    reconstruction: HeadLoss
    layer: BinaryLayer
    on: Tensor
    off: Tensor

    def __call__(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points"]:
        s = (x - self.layer.lo) / self.layer.delta
        return self.reconstruction(x) + self._log_ratio(s).sum(-1)

    def flipped(
        self, layer: BinaryLayer, s: Float[Tensor, "*batch points units"]
    ) -> Float[Tensor, "units *batch points"]:
        """As `HeadLoss.flipped`; a flip changes one term of the log-ratio."""
        ratio = self._log_ratio(s)
        change = (self._log_ratio(1 - s) - ratio).movedim(-1, 0)
        return self.reconstruction.flipped(layer, s) + ratio.sum(-1) + change

    def _log_ratio(self, s: Tensor) -> Tensor:
        return s * self.on + (1 - s) * self.off


def _log_ratios(network: StochasticBinaryNetwork, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """log q(sⱼ|x)/p(sⱼ) at sⱼ = 1 and at sⱼ = 0, each [points, units].

    A state that cannot be has log q = −∞, and 0 · ∞ is no number: it gets the logarithm of the smallest positive
    number, with a zero gradient. No expectation depends on it.
    """
    layer, logits = network.layers[0], _decoder_of(network).prior_logits
    a = layer.preactivation(inputs)
    floor = math.log(torch.finfo(a.dtype).tiny)
    on, off = (torch.nan_to_num(layer.noise.log_cdf(t), nan=math.nan, neginf=floor) for t in (a, -a))
    return on - logsigmoid(logits), off - logsigmoid(-logits)


def _decoder_of(network: StochasticBinaryNetwork) -> BernoulliDecoder:
    if len(network.layers) != 1:
        raise GradevalError(
            f"NegativeElbo is defined for one stochastic layer, found {len(network.layers)}: make the layers below it "
            "deterministic (nn.Sequential), or write an objective of your own with bind(network, inputs, targets)."
        )
    if not isinstance(network.head, BernoulliDecoder):
        raise GradevalError(
            f"NegativeElbo needs a head with prior logits, BernoulliDecoder(map, prior_logits); found a head of the "
            f"class {type(network.head).__name__}."
        )
    return network.head

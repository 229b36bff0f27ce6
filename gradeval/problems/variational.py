"""The task `vae`: a variational autoencoder with one layer of binary units, as in papers on gradient estimators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradeval.arguments import widths_of
from gradeval.errors import GradevalError
from gradeval.model.elbo import ElboObjective, MultiSampleBound, NegativeElbo
from gradeval.model.maps import BernoulliDecoder, Copies
from gradeval.model.network import StochasticBinaryNetwork
from gradeval.model.noise import Noise
from gradeval.model.problem import Problem
from gradeval.model.randomness import generator
from gradeval.problems.image_files import Images
from gradeval.problems.image_tasks import ImageDesign, ImageSource, image_task, tanh_network
from gradeval.problems.tasks import Task, standardise

ALL_IMAGES, SOME_IMAGES = ImageSource(), ImageSource(points=100)  # what is trained on; what is evaluated on


def binarise(images: Images, seed: int) -> Float[Tensor, "images pixels"]:
    """Binary images, drawn once: a pixel is 1 with the probability of its grey value (static binarisation).

    Args:
        images: with grey values in [0, 1].
        seed: the draws follow from it.

    Returns:
        0 and 1, [images, channels × height × width].

    Source: Salakhutdinov & Murray, ICML 2008, doi:10.1145/1390156.1390266, sec. 5; fixed once as by Larochelle &
    Murray, AISTATS 2011 (PMLR 15).

    Examples:
        >>> images = Images(torch.tensor([[[[0.0, 0.5, 1.0]]]]).double(), torch.tensor([0]), ["one"])
        >>> torch.stack([binarise(images, seed)[0] for seed in range(400)]).mean(0).round(decimals=1).tolist()
        [0.0, 0.5, 1.0]
    """
    grey = images.pixels.flatten(1)
    uniform = torch.rand(grey.shape, generator=generator("cpu", "binary images", seed), dtype=grey.dtype)
    return (uniform < grey).to(grey.dtype)


def initialise_vae(network: StochasticBinaryNetwork, inputs: Float[Tensor, "points pixels"], seed: int) -> None:
    """The initial parameters of a VAE: `standardise`, then the logits of the pixels' rates added to the decoder's bias.

    Args:
        network: its parameters are set in place; the head is a `BernoulliDecoder` that ends in a linear map. One of K
            samples (`MultiSampleBound`) gets the parameters of one sample's.
        inputs: binary images, [points, pixels]. A pixel's rate is (½ + how often it is 1)/(1 + points).
        seed: all chance follows from it.
    """
    layer = network.layers[0].map
    if isinstance(layer, Copies):
        network = MultiSampleBound(layer.copies).single(network)
    standardise(network, inputs, seed)
    last = [module for module in network.head.modules() if isinstance(module, nn.Linear)][-1]
    rate = (inputs.sum(0) + 0.5) / (len(inputs) + 1)
    with torch.no_grad():
        last.bias.add_(torch.logit(rate))


@dataclass(frozen=True)
class ElboForm:
    """Which objective a VAE has.

    Args:
        kl: "sampled" or "analytic", see `NegativeElbo`.
        samples: K ≥ 2 for the bound of K samples, `MultiSampleBound`, whose KL is sampled.
    """

    kl: str = "sampled"
    samples: int = 1

    def objective(self) -> ElboObjective:
        """Make the objective.

        Returns:
            A `NegativeElbo`, or of more than one sample a `MultiSampleBound`.

        Raises:
            GradevalError: an unknown form of the KL, fewer than one sample, or several with the analytic KL.
        """
        one, several = NegativeElbo(self.kl), MultiSampleBound(self.samples)
        if several.samples > 1 and self.kl != "sampled":
            raise GradevalError(f"a bound of {self.samples} samples has the sampled KL; leave out kl='{self.kl}'.")
        return several if several.samples > 1 else one


def vae_task(
    units: int | str = 200,
    encoder: str = "",
    decoder: str = "",
    elbo: ElboForm = ElboForm(),
    images: ImageSource = ALL_IMAGES,
    *,
    noise: str | Noise = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
) -> Task:
    """A binary VAE of binarised images: encoder, one layer of binary units, decoder, and a learned prior of the units.

    The objective is `NegativeElbo`, or the `MultiSampleBound` of K samples, in nats. Encoder and decoder are linear, or
    have real layers with tanh; the images are `binarise` of the pixels with the source's seed.

    Args:
        units: the number of binary units.
        encoder, decoder: widths of their real layers, "200-200"; "" for none.
        elbo: which objective.
        images: which images.
        noise, states: of the network.

    Returns:
        The task; its network has the initial parameters of the source's seed.

    Raises:
        GradevalError: widths that cannot be, an unknown form of the KL, images that are not there, or more points than
            there are.

    Source: the linear and the nonlinear binary VAE of Tucker et al., NeurIPS 2017, arXiv:1703.07370, Yin & Zhou, ICLR
    2019, arXiv:1807.11143, and Dong et al., NeurIPS 2020, arXiv:2006.10680 (200 units; "200-200").

    Examples:
        >>> task = vae_task(5, images=ImageSource(points=50))
        >>> task.train.widths, task.train.points, [name for name, _ in task.train.network.head.named_parameters()]
        ([5], 50, ['prior_logits', 'map.weight', 'map.bias'])
    """
    objective, found = elbo.objective(), images.load()
    widths = widths_of("units", units)
    if len(widths) != 1:
        raise GradevalError(f"units must be the width of one layer of binary units, such as 200; found '{units}'.")
    pixels, code = found.pixels[0].numel(), widths[0]
    inner = {name: widths_of(name, text) if text else [] for name, text in (("encoder", encoder), ("decoder", decoder))}
    head = BernoulliDecoder(
        tanh_network([code, *inner["decoder"], pixels]), torch.zeros(code, dtype=found.pixels.dtype)
    )
    network = StochasticBinaryNetwork([tanh_network([pixels, *inner["encoder"], code])], head, noise, states)
    binary = binarise(found, images.seed)
    maps = f"encoder {encoder or 'linear'}, decoder {decoder or 'linear'}"
    what = f"binary VAE of {pixels}-pixel images, {code} units, {maps}, {elbo.kl} KL"
    name = f"vae {code}"
    if isinstance(objective, MultiSampleBound):
        network = objective.network(network)
        name, what = f"{name}, {elbo.samples} samples", f"{what}, bound of {elbo.samples} samples"
    return image_task(images, found, ImageDesign(network, binary, objective, name, what, binary, initialise_vae))


def vae_problem(
    units: int | str = 200,
    encoder: str = "",
    decoder: str = "",
    elbo: ElboForm = ElboForm(),
    images: ImageSource = SOME_IMAGES,
    *,
    noise: str | Noise = "logistic",
    states: tuple[float, float] = (0.0, 1.0),
) -> Problem:
    """The training data of `vae_task`, by default 100 images, with the network at its initial parameters.

    Args:
        units, encoder, decoder, elbo, images, noise, states: as of `vae_task`.

    Returns:
        The problem.

    Examples:
        >>> problem = vae_problem(5, elbo=ElboForm("analytic"))
        >>> problem.points, problem.loss
        (100, NegativeElbo(kl='analytic'))
    """
    return vae_task(units, encoder, decoder, elbo, images, noise=noise, states=states).train

"""Describe the parts of a policy by class and sizes, and rebuild them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from blocks.actor import Actor
from blocks.categorical_actor import CategoricalActor
from blocks.encoders import ImageEncoder, VectorEncoder
from blocks.latents import CategoricalLatent, GaussianLatent
from blocks.normalizer import Normalizer
from blocks.rssm import RSSM


def _normalizer(part: Normalizer) -> dict[str, Any]:
    return {"size": len(part.mean), "min_std": part.min_std}


def _vector_encoder(part: VectorEncoder) -> dict[str, Any]:
    first = cast(nn.Linear, part.layers[0])
    return {
        "observation_size": first.in_features,
        "embed_size": part.embed_size,
        "hidden_size": first.out_features,
    }


def _image_encoder(part: ImageEncoder) -> dict[str, Any]:
    return {"depth": part.embed_size // 32, "bfloat16": part.autocast}


def _rssm(part: RSSM) -> dict[str, Any]:
    return {
        "embed_size": part.posterior_embed.in_features,
        "action_size": len(part.dynamics.action_weight),
        "deter_size": part.deter_size,
        "stoch_size": part.stoch_size,
        "hidden_size": part.posterior_embed.out_features,
        "latent": describe("latent", part.latent),
    }


def _actor(part: Actor) -> dict[str, Any]:
    first = cast(nn.Linear, part.layers[0])
    return {
        "feat_size": first.in_features,
        "action_size": part.action_size,
        "hidden_size": first.out_features,
        "initial_std": (part.min_std + part.max_std) / 2,  # any that is allowed: it is replaced
        "min_std": part.min_std,
        "max_std": part.max_std,
    }


def _categorical_actor(part: CategoricalActor) -> dict[str, Any]:
    first = cast(nn.Linear, part.layers[0])
    return {
        "feat_size": first.in_features,
        "action_size": part.action_size,
        "hidden_size": first.out_features,
        "uniform": part.uniform,
    }


ALLOWED: dict[str, dict[type[Any], Callable[[Any], dict[str, Any]]]] = {
    "normalizer": {Normalizer: _normalizer, nn.Identity: lambda part: {}},
    "encoder": {VectorEncoder: _vector_encoder, ImageEncoder: _image_encoder},
    "rssm": {RSSM: _rssm},
    "latent": {GaussianLatent: dataclasses.asdict, CategoricalLatent: dataclasses.asdict},
    "actor": {Actor: _actor, CategoricalActor: _categorical_actor},
}
"""Classes that a file may name for each part, and how to find their constructor's arguments."""


def describe(name: str, part: object) -> dict[str, Any]:
    """Return class and constructor's arguments of a part, as values of JSON.

    Args:
        name: a key of ``ALLOWED``.
        part: the part, or a latent.

    Raises:
        ValueError: it is not a block of this package.
    """
    arguments_of = ALLOWED[name].get(type(part))
    if arguments_of is None:
        raise ValueError(
            f"{name}: got a {type(part).__name__}, which load_policy cannot rebuild; allowed "
            f"{_names(name)}; train with one of these, or keep the state_dict with your own code"
        )
    return {"class": type(part).__name__, "arguments": arguments_of(part)}


def rebuild(name: str, description: Mapping[str, Any]) -> Any:
    """Build a part, with new weights, from what ``describe`` returned.

    Raises:
        ValueError: the class is not allowed, or an argument is out of its range.
        KeyError, TypeError: the description is incomplete.
    """
    classes = {kind.__name__: kind for kind in ALLOWED[name]}
    if description["class"] not in classes:
        raise ValueError(f"{name}: got class {description['class']}; allowed {_names(name)}")
    arguments = dict(description["arguments"])
    if "latent" in arguments:
        arguments["latent"] = rebuild("latent", arguments["latent"])
    return classes[description["class"]](**arguments)


def _names(part: str) -> str:
    return ", ".join(kind.__name__ for kind in ALLOWED[part])

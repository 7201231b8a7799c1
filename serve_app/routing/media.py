"""Which tiers take the images of a call."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Prompt
from serve_app.core.errors import InvalidField, TooMany


def able_to_see(prompt: Prompt, tiers: Sequence[TierConfig]) -> Sequence[TierConfig]:
    """The tiers that take every image of the prompt; all of them for a prompt without images.

    Raises:
        InvalidField: no tier takes all images; names the field of an image and what is taken.
    """
    if not prompt.images:
        return tiers
    seeing = [tier for tier in tiers if tier.takes_images]
    able = [tier for tier in seeing if _takes_all(tier, prompt)]
    if not able:
        raise _refusal(prompt, seeing)
    return able


def _takes_all(tier: TierConfig, prompt: Prompt) -> bool:
    if prompt.images > tier.media.images_max:
        return False
    return all(tier.image_problem(image) is None for image in prompt.image_parts)


def _refusal(prompt: Prompt, seeing: Sequence[TierConfig]) -> InvalidField:
    """The error by the last of the tiers that take images, which is the strongest."""
    param = prompt.image_parts[0].param if prompt.image_parts else "messages"
    if not seeing:
        return InvalidField(
            param,
            "text only, because the model that was asked for takes no images; ask for a model "
            "whose tier has `modalities: [text, image]`, if there is one",
        )
    tier = seeing[-1]
    for image in prompt.image_parts:
        if (expected := tier.image_problem(image)) is not None:
            return InvalidField(image.param, expected)
    return TooMany(param, "images", tier.media.images_max)

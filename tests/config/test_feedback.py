"""The config of what is kept of calls."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.config.app import check_runtime
from serve_app.config.feedback import BUILT_INS, FeedbackConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.redact import Redactor


def test_nothing_is_kept_by_default() -> None:
    """And where something is, only with consent and redacted by every built-in pattern."""
    config = FeedbackConfig()
    assert (config.directory, config.consent, config.redact) == (None, "asked", BUILT_INS)


def test_every_built_in_pattern_exists() -> None:
    """A name that stood for nothing would redact nothing."""
    samples = {
        "email": "a@b.de",
        "phone": "+49 30 901820",
        "card": "4111111111111111",
        "iban": "GB82WEST12345698765432",
        "secret": "password=hunter2",
    }
    assert samples.keys() == set(BUILT_INS)
    for name, text in samples.items():
        assert Redactor([name]).redact([text]) == [f"[{name}]"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("directory", "log", "'log' is relative"),
        ("redact", ["emial"], "'emial' is none of the built-in patterns"),
        ("redact", ["["], r"'\[' is not a regular expression"),
        ("redact", ["x*"], "also matches the empty text"),
        ("sample_ratio", 1.1, "less than or equal to 1"),
        ("bytes_max", 1000, "greater than or equal to 1048576"),
        ("consent", "yes", "'asked' or 'assumed'"),
    ],
)
def test_what_cannot_be_meant_is_refused(key: str, value: object, words: str) -> None:
    """With how to mend it."""
    with pytest.raises(ValidationError, match=words):
        FeedbackConfig.model_validate({key: value})


@pytest.mark.parametrize(("tiers", "words"), [(("fast",), "there is one"), (("fast", "s"), None)])
def test_it_takes_two_tiers_to_learn(tiers: tuple[str, ...], words: str | None) -> None:
    """With one there is nothing to keep calls for."""
    runtime = RuntimeConfig(feedback=FeedbackConfig(directory="/log"))
    configs = tuple(TierConfig(name=name, model_id=f"model-{name}") for name in tiers)
    if words is None:
        check_runtime(runtime, configs)
    else:
        with pytest.raises(ValueError, match=words):
            check_runtime(runtime, configs)


def test_own_patterns_are_taken() -> None:
    """A plain word, too, if it is written as a pattern."""
    config = FeedbackConfig(directory="/log", redact=("email", r"K-\d+", "(?:Falcon)"))
    assert config.redact[1:] == (r"K-\d+", "(?:Falcon)")

"""Check config.json, generation_config.json and the tokenizer: that they exist, and agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from serve_app.model_files.files import read_json_object
from serve_app.model_files.finding import Finding

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SETTINGS = (CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG)
_REMOTE_CODE = (CONFIG, TOKENIZER_CONFIG, "processor_config.json", "preprocessor_config.json")
TOKENIZER_BYTES_MAX = 256 * 1024 * 1024
_SLOW_TOKENIZERS = (".model", ".tiktoken", "vocab.json", "vocab.txt", "tekken.json")
_COPY = "copy the file from the model's source again"
_PAIR = "take config and tokenizer from one source and one revision"


class Settings:
    """The JSON files that describe a model, each read at most once; findings collect here."""

    def __init__(self, directory: Path, files: Mapping[str, int]) -> None:
        self.directory = directory
        self.files = files
        self.findings: list[Finding] = []
        self._read: dict[str, dict[str, Any]] = {}

    def read(self, name: str) -> dict[str, Any]:
        """The file's JSON object, or an empty object if the file is missing or broken."""
        if name not in self._read:
            self._read[name] = {}
            if name in self.files:
                try:
                    self._read[name] = read_json_object(self.directory / name)
                except ValueError as error:
                    self.find(name, str(error), _COPY)
        return self._read[name]

    def find(self, where: str, what: str, mend: str, *, fatal: bool = True) -> None:
        """Record a finding."""
        self.findings.append(Finding(where, what, mend, fatal))

    @property
    def vocab_size(self) -> int | None:
        """The rows of the embedding, if the config states them; many configs rely on a default."""
        text = self.read(CONFIG).get("text_config")
        for section in (self.read(CONFIG), text if isinstance(text, dict) else {}):
            size = section.get("vocab_size")
            if isinstance(size, int) and not isinstance(size, bool):
                return size
        return None


def check_settings(settings: Settings, *, allow_remote_code: bool) -> None:
    """Check the files against each other."""
    if CONFIG not in settings.files:
        settings.find(CONFIG, "not there", _COPY)
    elif config := settings.read(CONFIG):
        _check_architecture(settings, config)
    if not allow_remote_code:
        _check_remote_code(settings)
    largest_id = _check_tokenizer(settings)
    size = settings.vocab_size
    if size is not None and largest_id is not None and largest_id >= size:
        what = f"has token ids up to {largest_id}, but vocab_size is {size} in {CONFIG}"
        settings.find(TOKENIZER, what, _PAIR)
    for name in (CONFIG, GENERATION):
        for key in ("bos_token_id", "eos_token_id"):
            _check_ids(settings, name, key)


def _check_architecture(settings: Settings, config: Mapping[str, Any]) -> None:
    if not isinstance(config.get("model_type"), str):
        settings.find(CONFIG, "no model_type, which names the kind of model", _COPY)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        settings.find(CONFIG, "no architectures, which name the model's class", _COPY)


def _check_remote_code(settings: Settings) -> None:
    for name in _REMOTE_CODE:
        if settings.read(name).get("auto_map"):
            settings.find(
                name,
                "auto_map requests to run Python code that comes with the model",
                "use a model that the engine supports without extra code; or read the code, then "
                "check with --allow-remote-code and serve with `engine: {trust_remote_code: true}`",
            )


def _check_ids(settings: Settings, name: str, key: str) -> None:
    value = settings.read(name).get(key)
    for token in value if isinstance(value, list) else [value]:
        if token is None:
            continue
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            settings.find(name, f"{key} is not a token id: {token!r}", _COPY)
        elif settings.vocab_size is not None and token >= settings.vocab_size:
            what = f"{key} is {token}, outside the vocabulary of {settings.vocab_size}"
            settings.find(name, what, _PAIR)


def _check_tokenizer(settings: Settings) -> int | None:
    """The largest token id, or None if it is not known."""
    if TOKENIZER not in settings.files:
        if not any(name.endswith(_SLOW_TOKENIZERS) for name in settings.files):
            settings.find(TOKENIZER, "no tokenizer", _COPY)
        else:
            mend = "serve-app convert writes tokenizer.json"
            settings.find(TOKENIZER, "missing; older forms are not checked", mend, fatal=False)
        return None
    if settings.files[TOKENIZER] > TOKENIZER_BYTES_MAX:
        settings.find(TOKENIZER, f"longer than {TOKENIZER_BYTES_MAX} bytes", _COPY)
        return None
    try:
        tokenizer = Tokenizer.from_file(str(settings.directory / TOKENIZER))
    except Exception as error:  # noqa: BLE001  # the library raises no narrower type
        settings.find(TOKENIZER, f"cannot be loaded: {error}", _COPY)
        return None
    added = _added_tokens(settings)
    _check_end_token(settings, tokenizer, added.values())
    vocabulary = tokenizer.get_vocab(with_added_tokens=True).values()
    return max((*vocabulary, *added), default=None)


def _added_tokens(settings: Settings) -> dict[int, str]:
    """The tokens that tokenizer_config.json adds, by their ids."""
    added = settings.read(TOKENIZER_CONFIG).get("added_tokens_decoder")
    if not isinstance(added, dict):
        return {}
    return {
        int(key): _content(token)
        for key, token in added.items()
        if key.isdecimal() and len(key) < 10
    }


def _check_end_token(settings: Settings, tokenizer: Tokenizer, added: Iterable[str]) -> None:
    token = _content(settings.read(TOKENIZER_CONFIG).get("eos_token"))
    if token and tokenizer.token_to_id(token) is None and token not in added:
        what = f"eos_token {token!r} is not in {TOKENIZER}"
        settings.find(TOKENIZER_CONFIG, what, _PAIR)


def _content(token: object) -> str:
    """A token's text, which is given as such or in an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""

"""The only reader of YAML files and of the environment."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from serve_app.config.app import AppConfig, check_drains
from serve_app.config.batches import BatchesConfig
from serve_app.config.explain import explain_validation
from serve_app.config.joint import (
    JOINT_POLICY,
    JOINT_POLICY_0_1,
    JointPolicyConfig,
    check_groups,
    check_joint,
)
from serve_app.config.redis import RedisConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.secret import SecretConfig
from serve_app.config.serve_file import (
    APPLICATION_KEYS,
    DEPLOYMENT_KEYS,
    FILE_KEYS,
    ROUTER_NAME,
    ApplicationSection,
    ServeFile,
)
from serve_app.config.tiers import DEPLOYMENT_PREFIX

IMPORT_PATH = "serve_app.app:build"
OUR_PACKAGE = "serve_app."

RUN_DIR_VARIABLE = "SERVE_APP_RUN"

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """A config file cannot be used; the message says which key and how to mend it."""


@dataclass(frozen=True)
class ServeConfig:
    """A Serve config file that holds our application."""

    document: dict[str, Any]
    app: AppConfig
    runtime: RuntimeConfig

    @property
    def base_url(self) -> str:
        """The address of the service for a client on this machine."""
        file = ServeFile.model_validate(self.document)
        prefix = _find_ours(file).route_prefix or ""
        return file.http_options.base_url + prefix.rstrip("/")

    @property
    def loopback(self) -> bool:
        """Whether only clients on this machine reach the service."""
        return ServeFile.model_validate(self.document).http_options.loopback

    def with_port(self, port: int) -> ServeConfig:
        """This config with another public port."""
        document = copy.deepcopy(self.document)
        document.setdefault("http_options", {})["port"] = port
        return ServeConfig(document, self.app, self.runtime)

    def with_thumbs(self, directory: Path) -> ServeConfig:
        """This config with a directory for the playground's thumbs.

        Nothing but a thumb that somebody gives is kept: no call is drawn as a sample. A config that
        names a directory of its own, or clients elsewhere, stays as it is; so does a config with a
        single tier to judge.
        """
        if len([tier for tier in self.app.tiers if "generate" in tier.tasks]) < 2:
            return self
        document = copy.deepcopy(self.document)
        config = _router_section(document)
        if not (self.loopback and self.runtime.pages.playground) or "feedback" in config:
            return self
        config["feedback"] = {"directory": str(directory.absolute()), "sample_ratio": 0.0}
        feedback = self.runtime.feedback.model_validate(config["feedback"])
        return ServeConfig(
            document, self.app, self.runtime.model_copy(update={"feedback": feedback})
        )

    def with_batches(self, directory: Path) -> ServeConfig:
        """This config with a directory for files and batches.

        Only a config with the playground, which is meant for trying out, is given one, and only
        where all clients are on this machine. A config with a section of its own stays as it is.
        """
        document = copy.deepcopy(self.document)
        config = _router_section(document)
        if not (self.loopback and self.runtime.pages.playground) or "batches" in config:
            return self
        config["batches"] = {"directory": str(directory.absolute())}
        batches = BatchesConfig.model_validate(config["batches"])
        runtime = self.runtime.model_copy(update={"batches": batches})
        return ServeConfig(document, self.app, runtime)


def _router_section(document: dict[str, Any]) -> dict[str, Any]:
    """The Router's `user_config` in a checked document; one of its own if there is none."""
    ours = (each for each in document["applications"] if each["import_path"] == IMPORT_PATH)
    for application in ours:
        for deployment in application.get("deployments") or ():
            if deployment["name"] == ROUTER_NAME:
                found: dict[str, Any] = deployment.get("user_config") or {}
                return found
    return {}


def read_serve_config(path: Path) -> ServeConfig:
    """Read and check a Serve config file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or is not a config of this application.
    """
    document = _read(path)
    file = _validate(ServeFile, document, "not a Serve config file")
    application = _find_ours(file)
    app = _validate(AppConfig, application.args, "applications[].args")
    _check_keys(file.other_keys, "", FILE_KEYS)
    _check_deployments(application, app)
    _check_policy(application, app)
    runtime = _runtime(application, app)
    try:
        check_drains(app, runtime)
    except ValueError as error:
        raise ConfigError(f"applications[].args.{error}") from None
    return ServeConfig(document, app, runtime)


class _Loader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys; PyYAML silently keeps the last of them."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"the key '{key.value}' is there twice", key.start_mark
                )
            seen.add(key.value)
        return node


def _read(path: Path) -> Any:
    try:
        # A SafeLoader makes plain values only.
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(error.strerror or "cannot be read") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 from byte {error.start} on; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from None


def _validate(model: type[Model], value: object, where: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{where}:\n{explain_validation(error)}") from None


def _find_ours(file: ServeFile) -> ApplicationSection:
    for application in file.applications:
        if application.import_path == IMPORT_PATH:
            return application
    raise ConfigError(f"applications: none with import_path {IMPORT_PATH}")


def _check_keys(found: Iterable[str], where: str, known: frozenset[str]) -> None:
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{where}{key}: unknown key{hint}")


def _check_deployments(application: ApplicationSection, app: AppConfig) -> None:
    where = "applications[]."
    _check_keys(application.other_keys, where, APPLICATION_KEYS)
    known = [ROUTER_NAME, *(DEPLOYMENT_PREFIX + tier.name for tier in app.deployed)]
    seen: set[str] = set()
    for deployment in application.deployments:
        name = deployment.name
        _check_keys(deployment.other_keys, f"{where}deployments.{name}.", DEPLOYMENT_KEYS)
        if name in seen:
            raise ConfigError(f"{where}deployments: '{name}' is there twice; write one")
        seen.add(name)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"applications[].deployments: no deployment '{name}'; {hint}")


def _check_policy(application: ApplicationSection, app: AppConfig) -> None:
    policy = application.autoscaling_policy
    if policy is None:
        return
    where = "applications[].autoscaling_policy"
    named = policy.policy_function or ""
    is_joint = named in (JOINT_POLICY, JOINT_POLICY_0_1)
    if not is_joint and named.startswith(OUR_PACKAGE):
        raise ConfigError(f"{where}.policy_function: '{named}'; did you mean '{JOINT_POLICY}'?")
    try:
        check_groups(app.tiers)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not is_joint:
        return
    where = f"{where}.policy_kwargs"
    joint = _validate(JointPolicyConfig, policy.policy_kwargs, where)
    try:
        check_joint(joint, app.tiers)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _runtime(application: ApplicationSection, app: AppConfig) -> RuntimeConfig:
    for deployment in application.deployments:
        if deployment.name == ROUTER_NAME and deployment.user_config is not None:
            runtime = _validate(RuntimeConfig, deployment.user_config, "Router.user_config")
            try:
                app.check_runtime(runtime)
            except ValueError as error:
                raise ConfigError(f"Router.user_config: {error}") from None
            return runtime
    return app.runtime


def process_environment() -> dict[str, str]:
    """A copy of this process's environment, for a child process."""
    return dict(os.environ)


def read_secret(config: SecretConfig, bytes_min: int = 1) -> bytes:
    """Read a secret; line ends at its end do not count.

    Raises:
        ConfigError: the secret cannot be read, or is shorter than `bytes_min`.
    """
    if config.file is not None:
        where = config.file
        try:
            found = Path(where).read_bytes()
        except OSError as error:
            raise ConfigError(f"{where}: {error.strerror or 'cannot be read'}") from None
    else:
        where = f"environment variable {config.variable}"
        found = os.environb.get(str(config.variable).encode(), b"")
    secret = found.rstrip(b"\r\n")
    if len(secret) < bytes_min:
        raise ConfigError(f"{where}: has {len(secret)} bytes; at least {bytes_min} are needed")
    return secret


def read_redis_options(config: RedisConfig) -> dict[str, str]:
    """What the Redis client needs beside the address.

    Raises:
        ConfigError: the password cannot be read.
    """
    options = {}
    if config.password is not None:
        options["password"] = read_secret(config.password).decode("utf-8", "surrogateescape")
    if config.ca_file is not None:
        options["ssl_ca_certs"] = config.ca_file
    return options


def run_dir() -> Path:
    """The directory of `serve-app up`: `.run` beside the package, or `$SERVE_APP_RUN`."""
    named = os.environ.get(RUN_DIR_VARIABLE)
    return Path(named) if named else Path(__file__).parents[2] / ".run"

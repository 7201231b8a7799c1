"""The only reader of YAML files and of the environment."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config.app import AppConfig, check_runtime
from serve_app.config.explain import explain_validation
from serve_app.config.runtime import RuntimeConfig

IMPORT_PATH = "serve_app.app:build"
ROUTER_NAME = "Router"
RUN_DIR_VARIABLE = "SERVE_APP_RUN"


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
        """Where a client on this machine reaches the service."""
        options = self.document.get("http_options") or {}
        host = options.get("host", "127.0.0.1")
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return f"http://{host}:{options.get('port', 8000)}"

    def with_port(self, port: int) -> ServeConfig:
        """The same with another public port."""
        document = copy.deepcopy(self.document)
        document.setdefault("http_options", {})["port"] = port
        return ServeConfig(document, self.app, self.runtime)


def load_serve_config(path: Path) -> ServeConfig:
    """Read and check a Serve config file.

    Raises:
        ConfigError: it is no file, no YAML, or not a config of this application.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(error.strerror or "cannot be read") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}") from None
    application = _application(document)
    try:
        app = AppConfig.model_validate(application.get("args") or {})
    except ValidationError as error:
        raise ConfigError(f"applications[].args:\n{explain_validation(error)}") from None
    return ServeConfig(document, app, _runtime(application, app))


def _application(document: object) -> dict[str, Any]:
    applications = document.get("applications") if isinstance(document, dict) else None
    for application in applications or []:
        if isinstance(application, dict) and application.get("import_path") == IMPORT_PATH:
            return application
    raise ConfigError(f"applications: none with import_path {IMPORT_PATH}")


def _runtime(application: dict[str, Any], app: AppConfig) -> RuntimeConfig:
    for deployment in application.get("deployments") or []:
        if deployment.get("name") == ROUTER_NAME and deployment.get("user_config") is not None:
            try:
                runtime = RuntimeConfig.model_validate(deployment["user_config"])
                check_runtime(runtime, app.tiers)
            except ValidationError as error:
                raise ConfigError(f"Router.user_config:\n{explain_validation(error)}") from None
            except ValueError as error:
                raise ConfigError(f"Router.user_config: {error}") from None
            return runtime
    return app.runtime


def process_environment() -> dict[str, str]:
    """A copy of this process's environment, to be handed to a child."""
    return dict(os.environ)


def run_dir() -> Path:
    """Where `serve-app up` keeps its files: `.run` beside the package, or `$SERVE_APP_RUN`."""
    named = os.environ.get(RUN_DIR_VARIABLE)
    return Path(named) if named else Path(__file__).parents[2] / ".run"

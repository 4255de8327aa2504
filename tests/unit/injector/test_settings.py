"""The injector's settings: what sidecars get unless annotations say otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar import __version__
from sidecar.config_sources import ConfigError
from sidecar.injector.settings import InjectorSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL = {
    "image": "registry.example/embercache:1",
    "imagePullPolicy": "IfNotPresent",
    "nativeSidecar": "false",
    "model": "minilm",
    "encoderTarget": "dns:///encoder.cache.svc:50551",
    "redisUrl": "redis://redis.cache.svc:6379/0",
    "redisSecret": "",
    "port": 6000,
    "metricsPort": 6001,
    "logLevel": "debug",
    "drainDelaySeconds": 2.5,
    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    "env": [{"name": "EMBERCACHE_HOT_MAX_BYTES", "value": "64MiB"}],
    "secretMounts": [{"path": "/etc/embercache/keys", "optional": False, "secret": "cache.keys"}],
    "configMapMounts": [{"path": "/etc/embercache/ca", "optional": True, "configMap": "pool-ca"}],
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "excludedNamespaces": ["monitoring"],
}


def mount(named: str = "keys", **fields: Any) -> dict[str, Any]:
    return {"secretMounts": [{"secret": named, "path": "/etc/keys"} | fields]}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., InjectorSettings]:
    """Reads settings from a file of that content."""

    def run(**content: Any) -> InjectorSettings:
        path = tmp_path / "injector.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_settings(path)

    return run


def test_a_file_sets_everything(load: Callable[..., InjectorSettings]) -> None:
    settings = load(**ALL)
    assert settings.model_dump(mode="json", by_alias=True) == ALL
    assert set(ALL) == {field.alias for field in InjectorSettings.model_fields.values()}


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "injector.yaml"
    path.write_text("# nothing\n")
    settings = load_settings(path)
    assert settings == InjectorSettings()
    assert settings.image == f"embercache/embercache:{__version__}"


def test_numbers_and_booleans_without_quotes_are_what_they_look_like(
    load: Callable[..., InjectorSettings],
) -> None:
    settings = load(nativeSidecar=True, resources={"requests": {"cpu": 2}, "limits": {"cpu": 2.5}})
    assert settings.native_sidecar == "true"
    assert settings.resources.requests == {"cpu": "2"}
    assert settings.resources.limits == {"cpu": "2.5"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"imge": "x"}, "imge: there is no such setting"),
        ({"resources": {"request": {}}}, "resources.request: there is no such setting"),
        ({"image": "a b"}, "image: write the full reference of an image"),
        ({"imagePullPolicy": "always"}, "imagePullPolicy: Input should be '', 'Always'"),
        ({"nativeSidecar": "yes"}, "nativeSidecar: Input should be 'auto', 'true' or 'false'"),
        ({"model": "a b"}, "model: write names of model packs"),
        ({"encoderTarget": "a b"}, "encoderTarget: write local, or an address"),
        ({"redisUrl": "redis.cache.svc"}, "redisUrl: write redis://HOST:PORT"),
        ({"redisSecret": "A"}, "redisSecret: write NAME or NAME/KEY of a Secret"),
        ({"redisUrl": "redis://a", "redisSecret": "b"}, "set redisUrl or redisSecret, not both"),
        ({"port": 80}, "port: Input should be greater than or equal to 1024"),
        ({"port": 50552}, "port and metricsPort must not be the same"),
        ({"logLevel": "trace"}, "logLevel: Input should be 'debug'"),
        ({"drainDelaySeconds": -1}, "drainDelaySeconds: Input should be greater than or equal"),
        ({"resources": {"requests": {"cpu": "fast"}}}, "resources.requests: cpu: write a quantity"),
        ({"resources": {"limits": {"memory": "1m"}}}, "resources.limits: memory: write at least"),
        (
            {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}},
            "resources: the request of cpu, 2, is more than its limit, 1500m",
        ),
        ({"env": [{"value": "x"}]}, "env: 0: name must be letters, digits and '_'"),
        ({"env": [{"name": "A", "value": 1}]}, "env: the value of A must be text: put it in quote"),
        (
            {"env": [{"name": "EMBERCACHE_LOG_LEVEL", "value": "info"}]},
            "env: EMBERCACHE_LOG_LEVEL is set by the injector: use the setting of its own",
        ),
        (mount("A"), "secretMounts.0.secret: write a name of lower-case letters"),
        (mount("a..b"), "secretMounts.0.secret: write a name of lower-case letters"),
        (mount("a" * 254), "secretMounts.0.secret: write a name of lower-case letters"),
        (mount(name="keys"), "secretMounts.0.name: there is no such setting"),
        (mount(path="etc/keys"), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/etc/../root"), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/."), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/" + "a" * 512), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/etc/keys/"), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/"), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/etc/a:b"), "secretMounts.0.path: write the whole path of a folder"),
        (mount(path="/run/embercache"), "nothing can be mounted at /run/embercache beside"),
        (mount(path="/run"), "nothing can be mounted at /run/embercache beside /run: give each"),
        (
            mount(path="/var/run/secrets"),
            "nothing can be mounted at /var/run/secrets/kubernetes.io/serviceaccount beside",
        ),
        (
            mount(path="/etc/a") | {"configMapMounts": [{"configMap": "ca", "path": "/etc/a/b"}]},
            "nothing can be mounted at /etc/a/b beside /etc/a: give each Secret and ConfigMap a",
        ),
        (
            {"configMapMounts": [{"configMap": "ca", "path": "/a"}] * 2},
            "nothing can be mounted at /a beside /a",
        ),
        ({"runAsUser": 0}, "runAsUser: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    load: Callable[..., InjectorSettings], content: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**content)
    assert f"injector.yaml: {message}" in str(caught.value)


def test_folders_whose_names_begin_alike_are_apart(load: Callable[..., InjectorSettings]) -> None:
    paths = ("/etc/a", "/etc/a-b", "/etc/a.b", "/run/embercache-keys", "/.d")
    mounts = [{"secret": "keys", "path": path} for path in paths]
    assert [each.path for each in load(secretMounts=mounts).secret_mounts] == list(paths)


def test_all_wrong_settings_are_named_at_once(load: Callable[..., InjectorSettings]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(port=1, imge="x")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@redis:6379/0",
        "redis://user:hunter2@redis",
        "redis://:hun/ter2@redis",
        "redis://:hun?ter2@redis",
        "redis+sentinel://:hunter2@a,b/main",
        "redis://redis/0?password=hunter2",
        ":hunter2@redis",
    ],
)
def test_a_password_belongs_in_a_secret_and_is_never_shown(
    load: Callable[..., InjectorSettings], url: str
) -> None:
    with pytest.raises(ConfigError, match="redisUrl: ") as caught:
        load(redisUrl=url)
    assert "ter2" not in str(caught.value)
    with pytest.raises(ValueError, match="redis_url") as direct:
        InjectorSettings(redis_url=url)
    assert "ter2" not in str(direct.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "line 1: not YAML"),
        ("a: 'hunter2\n", "line 2: not YAML"),
        ("\x00", "not YAML in UTF-8"),
        ("- a", "the top level must be a mapping of settings"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_the_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "injector.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(path)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file or directory"):
        load_settings(tmp_path / "none.yaml")


def test_the_system_s_own_namespace_is_always_excluded() -> None:
    settings = InjectorSettings(excluded_namespaces=("monitoring",))
    assert [
        name for name in ("kube-system", "monitoring", "shop", "") if settings.excludes(name)
    ] == [
        "kube-system",
        "monitoring",
    ]

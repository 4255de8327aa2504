"""Labels and annotations of ours on a pod."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sidecar.injector.annotations import (
    ANNOTATIONS,
    Overrides,
    asks_for_sidecar,
    markdown_table,
    read_overrides,
)
from sidecar.injector.errors import AnnotationError

RIGHT = {
    "model": ("minilm,/models/own", "minilm,/models/own"),
    "namespace": ("team-a", "team-a"),
    "redis-secret": ("redis/URL", ("redis", "URL")),
    "encoder-target": ("dns:///encoder.cache.svc:50551", "dns:///encoder.cache.svc:50551"),
    "log-level": ("debug", "debug"),
    "port": ("6000", 6000),
    "metrics-port": ("6001", 6001),
    "sidecar-cpu-request": ("250m", "250m"),
    "sidecar-cpu-limit": ("2", "2"),
    "sidecar-memory-request": ("512Mi", "512Mi"),
    "sidecar-memory-limit": ("1.5Gi", "1.5Gi"),
    "image": ("registry:5000/embercache@sha256:00", "registry:5000/embercache@sha256:00"),
    "native-sidecar": ("true", True),
    "containers": ("app, worker", ("app", "worker")),
    "config-patch": ('[{"op":"remove","path":"/args"}]', ({"op": "remove", "path": "/args"},)),
}
WRONG = [
    ("model", "a b", "write names of model packs with commas between"),
    ("namespace", "team/a", "write 1 to 64 letters, digits, '.', '_' and '-'"),
    ("redis-secret", "redis://:pw@host", "write NAME or NAME/KEY of a Secret in the pod's"),
    ("encoder-target", "a b", "write local, or an address such as dns:///"),
    ("log-level", "verbose", "write debug, info, warning or error, not 'verbose'"),
    ("port", "80", "write a number from 1024 to 65535, not '80'"),
    ("metrics-port", "metrics", "write a number from 1024 to 65535, not 'metrics'"),
    ("sidecar-cpu-request", "fast", "write a quantity such as 250m, 1.5 or 64Mi, not 'fast'"),
    ("sidecar-cpu-limit", "0", "write at least 1m"),
    ("sidecar-memory-request", "512m", "write at least 16Mi"),
    ("sidecar-memory-limit", "1GB", "write a quantity such as 250m, 1.5 or 64Mi, not '1GB'"),
    ("image", "", "write the full reference of an image, such as"),
    ("native-sidecar", "yes", "write auto, true or false, not 'yes'"),
    ("containers", "app,,worker", "write names of containers with commas between"),
    ("config-patch", "{}", "a JSON Patch is a list of operations"),
]


def overrides(**annotations: object) -> Overrides:
    names = {f"embercache.io/{name.replace('_', '-')}": each for name, each in annotations.items()}
    return read_overrides(names, ())


def test_every_annotation_is_tried_below() -> None:
    names = [item.name.removeprefix("embercache.io/") for item in ANNOTATIONS]
    assert names == list(RIGHT)
    assert names == [name for name, *_ in WRONG]


@pytest.mark.parametrize("name", RIGHT)
def test_an_annotation_is_read(name: str) -> None:
    text, value = RIGHT[name]
    read = read_overrides({f"embercache.io/{name}": text}, ())
    expected = dataclasses.replace(Overrides(), **{name.replace("-", "_"): value})
    assert read == expected


@pytest.mark.parametrize(("name", "text", "message"), WRONG)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, text: str, message: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_overrides({f"embercache.io/{name}": text}, ())
    assert str(caught.value).startswith(f"embercache.io/{name}: {message}")


def test_annotations_and_labels_of_others_are_no_business_of_ours() -> None:
    others = {"prometheus.io/port": "x", "embercache.io.example/port": "x", "port": 1}
    assert read_overrides(others, others) == Overrides()


def test_auto_leaves_the_kind_of_sidecar_to_the_injector() -> None:
    assert overrides(native_sidecar="auto") == Overrides()
    assert overrides(native_sidecar="false").native_sidecar is False


def test_spaces_around_a_value_do_not_count() -> None:
    assert overrides(port=" 6000\n").port == 6000


def test_an_unknown_annotation_is_refused_with_the_nearest_name_and_all_names() -> None:
    with pytest.raises(AnnotationError) as caught:
        overrides(sidecar_memory="1Gi")
    message = str(caught.value)
    assert message.startswith(
        "there is no annotation embercache.io/sidecar-memory; did you mean"
        " embercache.io/sidecar-memory-limit?"
    )
    assert all(item.name.removeprefix("embercache.io/") in message for item in ANNOTATIONS)


def test_an_annotation_that_is_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(AnnotationError, match=r"there is no annotation embercache\.io/zzz; The"):
        overrides(zzz="1")


def test_the_label_that_asks_for_a_sidecar_is_not_taken_as_an_annotation() -> None:
    with pytest.raises(AnnotationError, match="is a label, not an annotation: put it under labels"):
        overrides(inject="true")


def test_an_annotation_is_not_taken_as_a_label() -> None:
    with pytest.raises(AnnotationError, match=r"embercache\.io/model is an annotation, not a la"):
        read_overrides({}, ["app", "embercache.io/inject", "embercache.io/model"])


def test_an_unknown_label_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(AnnotationError, match=r"there is no label .*did you mean embercache\.io/"):
        read_overrides({"embercache.io/port": "6000"}, ["embercache.io/injected"])


def test_labels_of_a_pod_that_neither_has_annotations_of_ours_nor_asks_do_not_matter() -> None:
    version = {"embercache.io/injector-version": "0.1.0", "note": "x"}
    assert read_overrides(version, ["embercache.io/injected", "embercache.io/model"]) == Overrides()


@pytest.mark.parametrize("value", [50551, True, None, ["a"]])
def test_a_value_that_lacks_its_quotes_is_refused(value: object) -> None:
    with pytest.raises(AnnotationError, match="the value of an annotation is text: put it in quot"):
        overrides(port=value)


def test_a_long_wrong_value_is_cut_in_the_message() -> None:
    with pytest.raises(AnnotationError) as caught:
        overrides(port="1" * 100_000)
    assert len(str(caught.value)) < 200


def test_a_pod_asks_for_a_sidecar_declines_it_or_says_nothing() -> None:
    assert asks_for_sidecar({"embercache.io/inject": "true"}) is True
    assert asks_for_sidecar({"embercache.io/inject": "false"}) is False
    assert asks_for_sidecar({"app": "web"}) is None


@pytest.mark.parametrize("value", ["yes", "True", "", True, None, {}])
def test_a_label_that_neither_asks_nor_declines_is_refused(value: object) -> None:
    with pytest.raises(AnnotationError) as caught:
        asks_for_sidecar({"embercache.io/inject": value})
    assert str(caught.value) == (
        f'label embercache.io/inject: write "true" or "false", not {json.dumps(value)}'
    )


def test_the_table_for_the_documentation_has_a_row_for_every_annotation() -> None:
    heading, line, *rows = markdown_table().splitlines()
    assert heading.count("|") == line.count("|") == 4
    for row, item in zip(rows, ANNOTATIONS, strict=True):
        assert row == f"| `{item.name}` | {item.default} | {item.description} |"
        assert row.count("|") == 4

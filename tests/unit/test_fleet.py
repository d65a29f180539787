"""The fleet: the shipped file holds, the cheapest that fits is picked, mistakes are named by line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import fleet, schemas
from bot.errors import UsageError
from bot.fleet import Fleet, Needs, RunnerClass, Unfit


def runner(name: str, **more: object) -> RunnerClass:
    values = {
        "name": name,
        "labels": ("self-hosted", name),
        "gpu": name,
        "gpu_memory_gib": 44,
        "compute_capability": "8.9",
        "memory_gib": 120,
        "disk_gib": 500,
        "count": 1,
        "cost_per_hour_usd": 2,
        "max_hours": 16,
    }
    return RunnerClass.model_validate({**values, **more})


def needs(**more: object) -> Needs:
    values = {"gpu_memory_gib": 40, "compute_capability_min": "8.0", "memory_gib": 64, "disk_gib": 200}
    return Needs.model_validate({**values, **more})


def test_the_shipped_fleet_holds_and_says_who_does_what():
    shipped = fleet.load()
    names = {}
    for label, asked in {
        "metadata": needs(gpu_memory_gib=0, compute_capability_min="0.0", memory_gib=4, disk_gib=5),
        "gptq": needs(),
        "nvfp4": needs(gpu_memory_gib=60, compute_capability_min="10.0"),
        "wide": needs(gpu_memory_gib=120),
    }.items():
        found = shipped.pick(asked)
        assert isinstance(found, RunnerClass), found
        names[label] = found.name
    assert names == {"metadata": "hosted", "gptq": "l40s", "nvfp4": "rtx-pro-6000", "wide": "h200"}


def test_every_gpu_class_of_the_shipped_fleet_is_self_hosted_by_name():
    for each in fleet.load().classes:
        assert ("self-hosted" in each.labels) == (each.gpu_memory_gib > 0), each.name


def test_the_cheapest_that_fits_is_picked_whatever_the_order():
    dear, cheap = runner("dear", cost_per_hour_usd=5), runner("cheap", cost_per_hour_usd=1)
    small = runner("small", cost_per_hour_usd=0.5, gpu_memory_gib=24)
    for classes in ((dear, cheap, small), (small, cheap, dear)):
        found = Fleet(schema_version=1, classes=classes).pick(needs())
        assert isinstance(found, RunnerClass)
        assert found.name == "cheap"


def test_capabilities_are_compared_as_numbers():
    hopper, blackwell = runner("hopper", compute_capability="9.0"), runner("b", compute_capability="12.0")
    pair = Fleet(schema_version=1, classes=(hopper, blackwell))
    found = pair.pick(needs(compute_capability_min="10.0"))
    assert isinstance(found, RunnerClass)
    assert found.name == "b"


def test_what_no_class_can_do_is_said_class_by_class():
    classes = (
        runner("small", gpu_memory_gib=24, disk_gib=100),
        runner("old", compute_capability="7.5"),
        runner("absent", count=0),
        runner("hosted", gpu_memory_gib=0, compute_capability="0.0"),
    )
    found = Fleet(schema_version=1, classes=classes).pick(needs())
    assert isinstance(found, Unfit)
    assert found.reasons == {
        "small": "24 GiB of GPU memory, 40 needed, 100 GiB of disk, 200 needed",
        "old": "compute capability 7.5, 8.0 needed",
        "absent": "count is 0",
        "hosted": "0 GiB of GPU memory, 40 needed, no GPU",
    }
    assert str(found).startswith("small: 24 GiB of GPU memory")


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from(["7.5", "8.9", "9.0", "12.0"]), st.integers(0, 9)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 200),
    st.sampled_from(["0.0", "8.0", "9.0", "10.0"]),
)
def test_a_pick_always_fits_and_nothing_cheaper_does(drawn, memory, capability):
    classes = [
        runner(
            f"c{i}",
            gpu_memory_gib=gib,
            compute_capability=has if gib else "0.0",
            cost_per_hour_usd=cost,
        )
        for i, (gib, has, cost) in enumerate(drawn)
    ]
    asked = needs(gpu_memory_gib=memory, compute_capability_min=capability)
    fitting = [each for each in classes if not fleet.lacking(each, asked)]
    found = Fleet(schema_version=1, classes=tuple(classes)).pick(asked)
    if isinstance(found, Unfit):
        assert not fitting
        assert set(found.reasons) == {each.name for each in classes}
    else:
        assert found in fitting
        assert found.cost_per_hour_usd == min(each.cost_per_hour_usd for each in fitting)


ONE = """schema_version: 1
classes:
  - name: one
    labels: [self-hosted, one]
    gpu: L40S
    gpu_memory_gib: 44
    compute_capability: "8.9"
    memory_gib: 120
    disk_gib: 500
    count: 1
    cost_per_hour_usd: 2
    max_hours: 16
"""
TWIN = ONE.partition("classes:\n")[2]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('"8.9"', "8.9"), "fleet.yaml:7: classes.0.compute_capability"),
        (("count: 1", "count: -1"), "fleet.yaml:10: classes.0.count"),
        (("gpu: L40S", "colour: red"), "fleet.yaml:3: classes.0.gpu: Field required"),
        (("gpu: L40S", "gpu: L40S\n    gpu: H100"), "fleet.yaml:6: stated twice"),
        (("[self-hosted, one]", "['; rm -rf /']"), "fleet.yaml:4: classes.0.labels.0"),
        (("[self-hosted, one]", "[one, ONE]"), "a label stands there twice"),
        (("gpu_memory_gib: 44", "gpu_memory_gib: 0"), 'has compute_capability "0.0"'),
        (("max_hours: 16", "max_hours: .inf"), "classes.0.max_hours"),
        ((TWIN, TWIN + TWIN), "two classes are called 'one'"),
        ((TWIN, TWIN + TWIN.replace("name: one", "name: two").replace("one]", "one, two]")), "may land"),
        (("classes:", "classes: ["), "not YAML"),
        ((ONE, "[]"), "fleet"),
    ],
)
def test_mistakes_are_named_by_file_line_and_field(tmp_path: Path, change: tuple[str, str], complaint: str):
    path = tmp_path / "fleet.yaml"
    path.write_text(ONE.replace(*change))
    with pytest.raises(UsageError) as refused:
        fleet.load(path)
    assert complaint in str(refused.value)


def test_a_missing_file_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        fleet.load(tmp_path / "none.yaml")


def test_the_json_schema_names_every_field():
    schema = json.loads(schemas.path("fleet").read_text())
    assert set(schema["$defs"]["RunnerClass"]["required"]) == set(RunnerClass.model_fields)


def test_the_files_that_hosts_are_set_up_from_are_current():
    folder = fleet.FLEET_FILE.parent / "classes"
    wanted = {f"{each.name}.env": each for each in fleet.load().classes if each.gpu_memory_gib}
    assert {path.name for path in folder.iterdir()} == wanted.keys()
    for name, each in wanted.items():
        assert (folder / name).read_text() == fleet.host_settings(each), "run `make generated`"


def test_what_a_changed_fleet_generates(tmp_path: Path):
    """A class that was renamed leaves no file behind that a host could still be set up from."""
    file, folder = tmp_path / "fleet.yaml", tmp_path / "classes"
    shutil.copytree(fleet.FLEET_FILE.parent / "classes", folder)
    file.write_text(fleet.FLEET_FILE.read_text().replace("name: l40s", "name: l40s-new"))
    (folder / "h200.env").write_text("MIN_DISK_GIB=1\n")
    fleet.write_classes(file)
    assert {path.stem for path in folder.iterdir()} == {"l40s-new", "rtx-pro-6000", "h200", "b200"}
    assert "RUNNER_CLASS=l40s-new\n" in (folder / "l40s-new.env").read_text()
    assert (folder / "h200.env").read_text() == (fleet.FLEET_FILE.parent / "classes/h200.env").read_text()


def test_make_generated_writes_everything_that_a_test_holds_to_be_current():
    """Each program that says of itself that `make generated` runs it, is run by it."""
    root = fleet.FLEET_FILE.parents[1]
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "generated"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    programs = [path for path in (root / "bot").rglob("*.py") if "__main__" in path.read_text()]
    saying = {path for path in programs if "make generated" in path.read_text()}
    saying |= {path.with_name("__main__.py") for path in saying if path.name == "__init__.py"}
    names = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__main__") for path in saying
    } | {"bot.schemas"}
    assert names == {"bot.readme", "bot.schemas", "bot.fleet"}
    for name in names:
        assert f"-m {name}\n" in done.stdout, name
    assert "tests/fixtures/cards/update.py\n" in done.stdout

"""What a row depends on is found by reading: an edit makes exactly those rows stale whose numbers it can change."""

import importlib
import sys
import uuid
from pathlib import Path

import pytest

from archlab.experiments import dependencies
from archlab.experiments.cells import Plan, cells_of
from archlab.experiments.dependencies import DRAWS, READ, below, code_of
from studies.classify import removal_report, resnet20
from studies.motion import table1, table1_report
from studies.motion.figures import (
    fig1_cost,
    fig6_width,
    fig7_resolution,
    fig8_noise,
    fig10_impulse,
    fig11_ablation,
    shared,
)
from studies.motion.train import networks

FIGURES = (fig1_cost, fig6_width, fig7_resolution, fig8_noise, fig10_impulse, fig11_ablation)
STUDIES = (table1, networks, *FIGURES, resnet20)

FILES = {
    "table.py": """
from .drawing import draw, widest
from .measuring import score as measured
from . import training
from archlab.report import tables
from archlab.measure.image_quality import psnr

ROWS = [{"name": name, "what": what} for name, what in (("a", "train"), ("b", "train"), ("c", "judge"))]
JUDGED = 8
UNUSED = 1

def cell_for(row):
    return {"train": train, "judge": judge}[row["what"]]

def needs(row):
    return ["a"] if row["name"] == "c" else []

def train(row, preset, seed, scratch):
    \"\"\"Trains.\"\"\"
    return {"steps": training.train(row["name"])}

def judge(row, preset, seed, scratch):
    return {"score": measured(JUDGED), "psnr": psnr}

def report(rows, folder):
    draw(rows, folder, tables, TITLE, fewer(widest))

def fewer(x):
    return x - 1

TITLE = "Table"

if __name__ == "__main__":
    print("never")
""",
    "training.py": """
import math
from . import steps as count
RATES = {}
RATES["low"] = 0.1  # of all
def train(name):
    from .inside import LIMIT
    return min(count.STEPS[name], LIMIT) * RATES["low"] * math.pi
def of_nobody():
    return 0
""",
    "steps.py": "STEPS = {'a': 3, 'b': 4}\nOTHER = 5\n",
    "inside.py": "LIMIT = 10\n",
    "measuring.py": """
from numpy import mean
def score(n):
    return mean([n, weight(n)])
def weight(n):
    return n
""",
    "drawing.py": "widest = 3\ndef draw(*what):\n    return what\n",
}  # fmt: skip
ALL, TRAININGS, JUDGED = {"a", "b", "c"}, {"a", "b", "c"}, {"c"}  # c needs a


class Folder:
    """A package with a study in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, f"lab_{uuid.uuid4().hex[:8]}"
        self.out = folder / "out"
        for name, text in {"__init__.py": "", **FILES}.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / self.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / self.name / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def identities(self) -> dict[str, tuple[str, str]]:
        for module in [module for module in sys.modules if module.startswith("lab_")]:
            del sys.modules[module]
        importlib.invalidate_caches()
        plan = Plan(f"{self.name}.table", "smoke", None, 1, "keep", str(self.out), str(self.out))
        return {cell.name: (cell.key, cell.content) for cell in cells_of(plan)}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Folder(tmp_path)


EDITS = {
    "a measure's code": (("measuring.py", "[n,", "[n + 1,"), JUDGED),
    "what a measure calls": (("measuring.py", "    return n\n", "    return 2 * n\n"), JUDGED),
    "a library's function under the same name": (("measuring.py", "import mean", "import median as mean"), JUDGED),
    "the study's constant": (("table.py", "JUDGED = 8", "JUDGED = 9"), JUDGED),
    "what trains": (("training.py", "return min(", "return max("), TRAININGS),
    "what is put into a table": (("training.py", "0.1", "0.2"), TRAININGS),
    "a constant of an imported module": (("steps.py", "'a': 3", "'a': 2"), TRAININGS),
    "what is imported inside a function": (("inside.py", "10", "11"), TRAININGS),
    "another function under the same name": (("table.py", "import score as", "import weight as"), JUDGED),
    "its report": (("table.py", "    draw(rows", "    draw(rows, rows"), set()),
    "what only its report uses": (("table.py", "x - 1", "x - 2"), set()),
    "what only its report shows": (("table.py", '"Table"', '"Tables"'), set()),
    "a file that only draws": (("drawing.py", "return what", "return None"), set()),
    "a constant that nobody uses": (("table.py", "UNUSED = 1", "UNUSED = 2"), set()),
    "a function beside that nobody uses": (("training.py", "return 0", "return 1"), set()),
    "a constant beside that nobody uses": (("steps.py", "OTHER = 5", "OTHER = 6"), set()),
    "the order of imports": (("training.py", "import math\nfrom . import steps as count\n",
                              "from . import steps as count\nimport math\n"), set()),
    "the way something is imported": (("table.py", "from . import training", "import {lab}.training as training"),
                                      set()),
    "a comment": (("training.py", "# of all", "# of them all"), set()),
    "a docstring": (("table.py", "Trains.", "Trains for long."), set()),
    "its command line": (("table.py", '"never"', '"always"'), set()),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_makes_exactly_those_rows_stale_that_it_concerns(lab, edit):
    before = lab.identities()
    (file, old, new), expected = EDITS[edit]
    lab.edit(file, old, new.replace("{lab}", lab.name))
    after = lab.identities()
    assert {name for name in before if before[name] != after[name]} == expected
    assert {key for key, _ in before.values()} == {key for key, _ in after.values()}


def test_renaming_and_moving_modules_makes_nothing_stale(lab):
    before = lab.identities()
    lab.write("deep/__init__.py", "")
    root = lab.folder / lab.name
    (root / "measuring.py").rename(root / "deep" / "of_quality.py")
    (root / "steps.py").rename(root / "lengths.py")
    lab.edit("table.py", "from .measuring import", "from .deep.of_quality import")
    lab.edit("training.py", "from . import steps as count", "from . import lengths as count")
    assert lab.identities() == before


def test_keys_and_contents_are_the_same_in_every_version_of_python(lab):
    """Whoever changes how they are made raises `SCHEME` and sees that results are renamed or told."""
    assert lab.identities()["a"] == ("a-0-2d608ec3", "4cd76c2c0403c807")


def test_moving_a_function_to_another_file_makes_nothing_stale(lab):
    before = lab.identities()
    lab.edit("measuring.py", "def weight(n):\n    return n\n", "")
    lab.edit("measuring.py", "from numpy", "from .steps import weight\nfrom numpy")
    lab.edit("steps.py", "OTHER = 5\n", "def weight(n):\n    return n\n")
    assert lab.identities() == before


def test_exchanging_two_functions_is_seen_though_all_code_is_the_same(lab):
    lab.edit("measuring.py", "[n, weight(n)]", "[other(n), weight(n)]")
    lab.edit("measuring.py", "def weight", "from .both import one as weight, two as other\ndef of_old")
    lab.write("both.py", "def one(n):\n    return 1\ndef two(n):\n    return n\n")
    before = lab.identities()
    lab.edit("measuring.py", "one as weight, two as other", "two as weight, one as other")
    assert {name for name, cell in lab.identities().items() if cell != before[name]} == {"c"}


def test_a_local_name_is_not_the_modules(lab):
    lab.edit("measuring.py", "def score(n):", "def score(n, draw=None, *, OTHER=0):\n    draw = OTHER")
    lab.edit("measuring.py", "from numpy", "from .drawing import draw\nfrom .steps import OTHER\nfrom numpy")
    before = lab.identities()
    lab.edit("drawing.py", "return what", "return None")
    lab.edit("steps.py", "OTHER = 5", "OTHER = 6")
    assert lab.identities() == before


@pytest.mark.parametrize(
    "doubtful",
    ["return handed(steps)", "return globals()['OTHER']", "return OTHER", "return steps.made_up"],
    ids=["handed on", "globals", "star", "unseen"],
)
def test_in_doubt_all_of_a_module_counts(lab, doubtful):
    lab.write("steps.py", "STEPS = {'a': 3, 'b': 4}\nOTHER = 5\n" + "def asked():\n    return globals()['OTHER']\n")
    doubtful = "return steps.asked()" if "globals" in doubtful else doubtful
    imports = "from .steps import *" if doubtful == "return OTHER" else "from . import steps"
    lab.edit("measuring.py", "    return n\n", f"    {doubtful}\n")
    lab.edit("measuring.py", "from numpy", f"{imports}\nfrom numpy")
    before = lab.identities()
    lab.edit("steps.py", "OTHER = 5", "OTHER = 6")
    assert {name for name, cell in lab.identities().items() if cell != before[name]} == {"c"}


def test_what_a_file_does_when_it_is_imported_counts_with_all_of_the_file(lab):
    lab.edit("measuring.py", "def score", "import warnings\nif True:\n    warnings.simplefilter('once')\ndef score")
    before = lab.identities()
    lab.edit("measuring.py", "'once'", "'error'")
    assert {name for name, cell in lab.identities().items() if cell != before[name]} == {"c"}


@pytest.mark.parametrize("where", ["in the file", "in another"])
def test_what_a_decorator_may_have_registered_counts_with_all_of_the_file(lab, where):
    register = "MADE = {}\ndef register(f):\n    MADE[f.__name__] = f\n    return f\n"
    if where == "in another":
        lab.write("registry.py", register)
        register = "from .registry import MADE, register\n"
    lab.edit("measuring.py", "def score", f"{register}@register\ndef one():\n    return 1\ndef score")
    lab.edit("measuring.py", "    return n\n", "    return n + MADE['one']()\n")
    before = lab.identities()
    lab.edit("measuring.py", "    return 1\n", "    return 2\n")
    assert {name for name, cell in lab.identities().items() if cell != before[name]} == {"c"}


def test_a_network_beside_the_studies_counts(lab):
    (lab.folder / f"net_{lab.name}.py").write_text("SIZE = 1\n")
    lab.edit("training.py", "* math.pi", f"* net_{lab.name}.SIZE")
    lab.edit("training.py", "import math", f"import net_{lab.name}")
    before = lab.identities()
    (lab.folder / f"net_{lab.name}.py").write_text("SIZE = 2\n")
    assert {name for name, cell in lab.identities().items() if cell != before[name]} == TRAININGS


def test_a_study_that_another_needs_is_named_and_its_code_counts_by_its_rows(lab):
    lab.write(
        "figure.py",
        "from . import table\nROWS = ['x', 'y']\n"
        "def needs(row):\n    return [(table, 'c' if row == 'x' else 'b')]\n"
        "def cell(row, preset, seed, scratch):\n    return scratch.needed[table, 'c' if row == 'x' else 'b'].values\n"
        "def report(rows, folder): ...\n",
    )
    figure = Plan(f"{lab.name}.figure", "smoke", None, 1, "keep", str(lab.out / "f/smoke"), str(lab.out / "f/smoke"))

    def contents():
        lab.identities()
        return {cell.name: cell.content for cell in cells_of(figure)}

    before = contents()
    lab.edit("table.py", "x - 1", "x - 2")
    assert contents() == before
    lab.edit("table.py", "JUDGED = 8", "JUDGED = 9")
    assert {name for name, content in contents().items() if content != before[name]} == {"x"}


def test_depends_adds_rooms_and_packages_whole(lab):
    depends = "def depends(row):\n    return [f'{__package__}.kept'] if row['name'] == 'b' else []\n"
    lab.edit("table.py", "def needs", f"{depends}def needs")
    lab.write("kept/__init__.py", "")
    lab.write("kept/deep/file.py", "X = 1\n")
    before = lab.identities()
    lab.edit("kept/deep/file.py", "1", "2")
    assert {name for name, cell in lab.identities().items() if cell != before[name]} == {"b"}
    lab.edit("table.py", ".kept'", ".lost'")
    with pytest.raises(ValueError, match=r"lab_\w+\.lost: no Python file of this module is found"):
        lab.identities()


def test_rooms_that_are_read_exist_and_the_one_that_draws_never_counts():
    for room in READ:
        assert below(f"archlab.{room}")
    assert below(DRAWS) == [] and below("archlab")
    assert not [module for module in below("archlab") if module.startswith(DRAWS)]
    assert {"archlab.capture.record", "archlab.capture"} <= set(below("archlab.capture"))


def test_sources_tell_a_person_which_modules_count():
    assert set(code_of(networks.speed).modules) >= {networks.__name__, "archlab.measure.speed"}
    assert "archlab.training.fit" not in code_of(networks.speed).modules
    assert not [name for name in code_of(table1.learn).modules if name.startswith(("archlab.capture", DRAWS))]


# The studies themselves: what must become stale, by study, for an edit of a file's text.

QUALITIES = {row["name"] for row in networks.ROWS if row.get("what") == "quality"}
EVERY = {study: {row["name"] for row in study.ROWS} for study in STUDIES}
JUDGED_BY_NETWORKS = {study: EVERY[study] for study in (fig6_width, fig7_resolution, fig11_ablation)}
AFTER_TRAINING = {"training of the baseline", "sensitivity", "checks of the baseline"}
REAL_EDITS = {
    "the paper's FLOPs doubled": (
        ("archlab.measure.costs", "return op.macs + extra", "return 2 * (op.macs + extra)"),
        {table1: EVERY[table1] - AFTER_TRAINING, networks: QUALITIES, fig1_cost: EVERY[fig1_cost],
         resnet20: EVERY[resnet20] - {"sensitivity"}} | JUDGED_BY_NETWORKS,
    ),
    "the sign of every sensitivity": (
        ("archlab.removal.probe.alone", "value - untouched[name]", "untouched[name] - value"),
        {table1: {"sensitivity"}, resnet20: {"sensitivity"}},
    ),
    "JUDGED": (
        (networks.__name__, "JUDGED = {", "JUDGED = {None: 1, "),
        {networks: QUALITIES, fig10_impulse: EVERY[fig10_impulse]} | JUDGED_BY_NETWORKS,
    ),
    "SECONDS": (
        (networks.__name__, "SECONDS = {", "SECONDS = {None: 1, "),
        {networks: {"speed"}, fig1_cost: EVERY[fig1_cost]} | JUDGED_BY_NETWORKS,
    ),
    "SCENES": ((fig8_noise.__name__, "SCENES = {", "SCENES = {None: 1, "), {fig8_noise: EVERY[fig8_noise]}),
    "the gradient of the blend": (
        ("archlab.rewrite.blend", "def blend(", "def blend(more, "),
        {table1: {row["name"] for row in table1.ROWS if row["what"] == "learn"},
         resnet20: {row["name"] for row in resnet20.ROWS if "kind" in row}},
    ),
    "how models are recorded": (("archlab.capture.recorder", "def capture(", "def capture(more, "), {}),
    "table 1's report": ((table1_report.__name__, "def report(", "def report(more, "), {}),
    "the networks' report": ((networks.__name__, "def report(", "def report(more, "), {}),
    "how figures are drawn": ((shared.__name__, "def draw_tradeoff(", "def draw_tradeoff(more, "), {}),
    "figure 8's curves": ((shared.__name__, "def draw_small_motions(", "def draw_small_motions(more, "), {}),
    "resnet20's report": ((removal_report.__name__, "def write(", "def write(more, "), {}),
    "tables": (("archlab.report.tables", "def table(", "def table(more, "), {}),
}  # fmt: skip


def identities() -> dict[object, dict[str, str]]:
    """The content of each row of each real study, as its code is now; nothing lies in the folders."""
    plans = {study: Plan(study.__name__, "cpu", None, 1, "keep", *2 * ["nowhere/of/none"]) for study in STUDIES}
    return {study: {cell.name: cell.content for cell in cells_of(plan)} for study, plan in plans.items()}


@pytest.fixture(scope="module")
def before():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet20, "fingerprint", lambda preset, data: "some images")
        yield identities()


@pytest.mark.parametrize("edit", REAL_EDITS)
def test_of_the_real_studies_exactly_the_rows_that_an_edit_concerns_become_stale(edit, before, monkeypatch):
    read, ((module, old, new), expected) = dependencies.source, REAL_EDITS[edit]
    assert read(module).count(old) == 1
    monkeypatch.setattr(dependencies, "source", lambda m: read(m).replace(old, new) if m == module else read(m))
    after = identities()
    changed = {study: {name for name in rows if rows[name] != after[study][name]} for study, rows in before.items()}
    assert {study: rows for study, rows in changed.items() if rows} == expected

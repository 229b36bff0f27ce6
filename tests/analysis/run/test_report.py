"""The report: right numbers in words, nothing of a stranger's text gets loose, and it works in a real browser."""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gradeval.analysis.run.answer import answer_sentences
from gradeval.analysis.run.figures import RUN_FIGURES
from gradeval.analysis.run.report import (
    _differences,
    _layered,
    _pairs,
    _ranking,
    _reductions,
    build_report,
    report_page,
)
from gradeval.analysis.run.summary import BiasVerdict

make_run = runpy.run_path(str(Path(__file__).with_name("test_figures.py")))["make_run"]
CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "evil\"'><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>:{{ 7*7 }}"


class Elements(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(run: Any, drawn: list[dict[str, str]] | None = None) -> str:
    """The report without its figures, which take most of the time."""
    return report_page(run, drawn or [])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(make_run(), tmp_path_factory.mktemp("run"))


# --- what it says -------------------------------------------------------------------------------------------------


def test_opens_with_the_answer() -> None:
    text = Elements(page(make_run())).text
    claim = "The claim to be unbiased holds for reinforce and arm (in the gradient of all layers, a relative bias of "
    assert text.index(claim) < text.index("Ranking") < text.index("Break-even") < text.index("Method")
    assert "From a single draw, psa is the most accurate (relative RMSE 1.202, 95% interval [1.190, 1.214])." in text
    later = "From the mean of 1,000 draws, psa is the most accurate .*; arm overtakes it at about 2,600 draws"
    assert re.search(later, text)


def test_answer_names_a_claim_that_fails_and_where() -> None:
    run = make_run()
    wrong = (run.summary["estimator"] == "arm") & run.summary["layer"].isin(["2", "all"])
    run.summary.loc[wrong, "verdict"] = BiasVerdict.REFUTED
    first = answer_sentences(run)[0]
    assert first.startswith("The claim to be unbiased holds for reinforce (")
    assert first.endswith("; the claim to be unbiased fails for arm (layer 2 and all layers).")
    run.summary.loc[wrong, "verdict"] = BiasVerdict.HOLDS
    assert "holds for reinforce and arm" in answer_sentences(run)[0]


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"names": ["st", "psa"]}, "No estimator of this run claims to be unbiased."),
        ({"names": ["arm"], "undefined": ["1", "all"], "layers": ["1", "all"]}, "could not be tested for arm."),
        ({"names": ["st"]}, "From a single draw, st, the only estimator of this run, has relative RMSE"),
        ({"names": ["st", "psa"]}, "psa is the most accurate (relative RMSE 1.202, 95% interval [1.190, 1.214])."),
    ],
)
def test_answer_for_other_runs(shape: dict[str, Any], sentence: str) -> None:
    assert sentence in " ".join(answer_sentences(make_run(**shape)))


def test_answer_says_when_the_best_is_not_distinguished_from_the_next() -> None:
    run = make_run(["st", "psa"], ["all"])
    run.pairs["pvalue_adjusted"] = 0.06
    assert "; not told apart from it, by tests at 5% for all pairs together: st." in answer_sentences(run)[1]
    run.pairs["pvalue_adjusted"] = 0.04
    assert "not told apart" not in answer_sentences(run)[1]


def test_answer_gives_the_interval_of_the_break_even() -> None:
    """Planted: the number alone, where the truth may be "never"."""
    run = make_run(["reinforce", "st"])
    run.breakeven[["draws", "draws_low", "draws_high"]] = 5210.0, 4300.0, math.inf
    assert any(
        "reinforce may overtake it, from 4,300 draws on at the earliest, or never" in s for s in answer_sentences(run)
    )
    run.breakeven["draws_high"] = 6100.0
    assert any("overtakes it at about 5,200 draws (95% interval [4,300, 6,100])" in s for s in answer_sentences(run))


def test_what_is_undecided_is_said_with_the_draws_that_would_decide() -> None:
    run = make_run(["reinforce", "st"])
    run.summary["draws_to_decide"] = 52_000.0
    run.summary.loc[run.summary["estimator"] == "reinforce", "verdict"] = BiasVerdict.UNDECIDED
    assert "undecided for reinforce" in answer_sentences(run)[0]
    assert "about 52,000 draws would decide" in answer_sentences(run)[0]


def test_what_is_undecided_in_the_same_layers_is_said_once() -> None:
    run = make_run(["reinforce", "arm", "ram"], ["1", "2", "all"])
    run.summary["verdict"], run.summary["draws_to_decide"] = BiasVerdict.UNDECIDED, 52_000.0
    run.summary.loc[run.summary["estimator"] == "arm", "draws_to_decide"] = 60_000.0
    run.summary.loc[(run.summary["estimator"] == "ram") & (run.summary["layer"] == "2"), "verdict"] = BiasVerdict.HOLDS
    assert answer_sentences(run)[0] == (
        "The claim to be unbiased is undecided for reinforce and arm (in every layer; about 52,000 to 60,000 draws "
        "would decide); the claim to be unbiased is undecided for ram (layer 1 and all layers; about 52,000 draws "
        "would decide)."
    )


def test_answer_names_estimators_that_failed() -> None:
    run = make_run(["st"])
    run.manifest["failures"] = {"mine:broken": "NaN in its gradient"}
    assert answer_sentences(run)[-1] == "Not evaluated: mine:broken (NaN in its gradient)."


def test_ranking_is_by_error_of_one_draw_with_undefined_last() -> None:
    run = make_run()
    run.best.loc[run.best["estimator"] == "psa", "relative_rmse"] = math.nan
    groups = _ranking(run.best)
    assert [group["title"] for group in groups] == ["all layers", "layer 1", "layer 2", "layer 3", "head"]
    assert [row["name"] for row in groups[0]["rows"]][::6] == ["st", "psa"]


@pytest.mark.parametrize(
    "shape",
    [
        {"names": ["tanh"]},
        {"names": ["st"], "layers": ["all"]},
        {"undefined": ["1", "2", "3", "head", "all"]},
        {"blocks": 10},
        {"points": False},
        {"names": ["user:exact"], "sizes": {"user:exact": (0.0, 0.0)}},
        {"names": [f"user:{i}" for i in range(25)]},
    ],
)
def test_every_shape_of_run_has_a_report(shape: dict[str, Any]) -> None:
    run = make_run(**shape)
    run.fits = run.fits.iloc[:0]
    text = Elements(page(run)).text
    assert "nan" not in text.lower().split()
    assert all(name in text for name in run.manifest["estimators"])


def test_break_even_in_words() -> None:
    run = make_run(["arm", "st"], ["all"])
    run.breakeven.loc[0, ["draws_low", "draws", "draws_high"]] = [0.0, 0.0, math.inf]
    (pair,) = _pairs(run.breakeven)
    assert (pair["draws"].text, pair["draws"].interval) == ("the start", "[the start, never]")


def test_fitted_variance_that_disagrees_is_counted() -> None:
    run = make_run(["arm", "st"], ["all"])
    assert "holds the direct figure in 2 of 2 cases" in Elements(page(run)).text
    run.fits.loc[0, "relative_variance"] *= 1.5
    assert "holds the direct figure in 1 of 2 cases" in Elements(page(run)).text


# --- what it must not do ------------------------------------------------------------------------------------------


def test_names_from_strangers_stay_text() -> None:
    run = make_run([HOSTILE, "arm"])
    facts = run.manifest["estimators"][HOSTILE]
    facts |= {"source": "</td><script>alert(3)</script>", "notes": ["<b onclick=alert(4)>"]}
    run.manifest["problem"]["description"] = "<iframe src=https://example.org>"
    found = Elements(page(run))
    honest = Elements(page(make_run(["user:mine", "arm"])))
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in honest.tags}
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count(HOSTILE) >= 3
    assert "</td><script>alert(3)</script>" in found.text


def test_a_run_of_300_estimators_has_a_page_that_can_be_read() -> None:
    """45,000 pairs, and claims of 150 estimators, are cut to what matters; the rest is said to be in the tables.

    Planted: all pairs (it is a page of 13 MB), and a sentence for each claim.
    """
    names = [*(f"user:unbiased_{i}" for i in range(150)), *(f"user:biased_{i}" for i in range(150))]
    run = make_run(names, ["all"], blocks=20)
    run.summary.loc[:149, ["unbiased_claim", "draws_to_decide"]] = True, 1e6
    run.summary.loc[:149, "verdict"] = BiasVerdict.UNDECIDED
    html = page(run)
    text = Elements(html).text
    assert len(html) < 2_000_000
    assert "24 of the 300 estimators are shown" in text
    assert "Every pair and layer is in pairs.csv." in text
    assert "unbiased_11 and 138 more (all layers; about 1,000,000 draws would decide)" in text
    assert len(answer_sentences(run)[0]) < 4000
    assert "Those of 24 of the 300 cases" in text


def test_tables_of_pairs_have_every_layer_unless_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers first; planted: the rows of one layer in another's group."""
    run = make_run(["reinforce", "ram", "arm", "st"], ["1", "all"])
    for name in ("breakeven", "pairs"):
        table = getattr(run, name)
        setattr(run, name, pd.concat([table.assign(layer="1"), table]))
    for name, rows, length in (
        ("pairs", _differences, 6),
        ("breakeven", _pairs, 3),
        ("variance_reduction", _reductions, 3),
    ):
        table = getattr(run, name)
        groups = _layered(table, ["1", "all"], rows)
        assert [(group["layer"], len(group["rows"])) for group in groups] == [("all", length), ("1", length)]
    bodies = [tag for tag in Elements(page(run)).tags if tag[0] == "tbody" and tag[1].get("data-layer") == "1"]
    assert len(bodies) == 5
    monkeypatch.setattr("gradeval.analysis.run.report.MOST_ROWS", 10)
    assert [group["layer"] for group in _layered(run.pairs, ["1", "all"], _differences)] == ["all"]


def test_is_one_self_contained_file(built: Path) -> None:
    assert {path.name for path in built.parent.iterdir()} == {"figures", "report.html"}
    found = Elements(built.read_text(encoding="utf-8"))
    sources = [attributes[key] for _, attributes in found.tags for key in ("src", "href") if key in attributes]
    assert len(sources) == len(RUN_FIGURES) + 1
    assert all(source and source.startswith("data:") for source in sources)
    assert not [tag for tag, _ in found.tags if tag in ("iframe", "object", "embed")]
    assert "url(" not in built.read_text(encoding="utf-8")
    assert "default-src 'none'" in built.read_text(encoding="utf-8")


# --- in a browser -------------------------------------------------------------------------------------------------


class Browser:
    """Chromium showing the report, with everything that it complained about or asked for."""

    def __init__(self, chromium: Any, path: Path) -> None:
        self.chromium, self.path = chromium, path
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def open(self, width: int = 1200, scheme: str = "light") -> Any:
        page = self.chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", self._refuse)
        page.goto(self.path.as_uri())
        return page

    def _refuse(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is missing")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    arguments += ["--disable-sync", "--no-first-run"]
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def browser(chromium: Any, built: Path) -> Iterator[Browser]:
    """The built report; afterwards: no complaint, and no request but for the file itself and what it holds."""
    browser = Browser(chromium, built)
    yield browser
    for context in chromium.contexts:
        context.close()
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [built.as_uri()]


def names(page: Any) -> list[str]:
    found = page.locator("#ranking-table th[scope=row]:visible").all_inner_texts()
    return [str(name) for name in found]


def test_browser_shows_figures_and_one_layer(browser: Browser) -> None:
    page = browser.open()
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == len(RUN_FIGURES)
    assert min(widths) > 100
    assert names(page)[0] == "psa"
    page.select_option("#layer", "1")
    assert len(names(page)) == 7
    assert names(page)[0] == "tanh"
    pairs = page.locator("section:has(#break-even) tbody")  # of all layers only, which is said
    assert pairs.count() == 1
    assert pairs.locator("tr.title").is_visible()
    page.select_option("#layer", "all")
    assert not pairs.locator("tr.title").is_visible()


def test_browser_sorts_by_number_and_by_name(browser: Browser) -> None:
    page = browser.open()
    header = page.locator("#ranking-table th", has=page.get_by_role("button", name="Variance"))
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(page)[0] == "tanh"
    assert names(page)[-1] == "reinforce"
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert names(page)[0] == "reinforce"
    page.get_by_role("button", name="Estimator").first.click()
    assert names(page) == sorted(names(page))
    assert header.get_attribute("aria-sort") is None


def test_browser_finds_rows_in_all_tables(browser: Browser) -> None:
    """Planted: rows that stay hidden after the words are removed, and a search that minds capitals."""
    page = browser.open()
    rows = "table.sortable tbody tr:not(.title):not([hidden])"
    every = page.locator(rows).count()
    page.fill("#find", "Concrete:")
    assert sorted(names(page)) == ["concrete:temperature=0.1", "concrete:temperature=1.0"]
    found = page.locator(rows).all_text_contents()
    assert 2 < len(found) < every
    assert all("concrete" in text for text in found)
    page.fill("#find", "claim of no bias holds")
    assert sorted(names(page)) == ["arm", "reinforce"]
    page.fill("#find", "")
    assert page.locator(rows).count() == every


def test_browser_sorts_what_is_undefined_last_either_way(browser: Browser) -> None:
    page = browser.open()
    page.evaluate("document.querySelector('#ranking-table tbody tr:nth-child(4) td:nth-child(2)').dataset.value = ''")
    emptied = names(page)[2]
    for _ in range(2):
        page.get_by_role("button", name="RMSE, 1 draw").click()
        assert names(page)[-1] == emptied


def test_browser_at_400_pixels_scrolls_tables_and_not_the_page(browser: Browser) -> None:
    page = browser.open(width=400)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    box = page.locator("div.scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert box.evaluate("box => getComputedStyle(box).overflowX") == "auto"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_follows_the_colour_scheme_with_enough_contrast(browser: Browser, scheme: str) -> None:
    page = browser.open(scheme=scheme)

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def colour(selector: str, key: str) -> float:
        return luminance(page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{key}"))

    paper = colour("body", "backgroundColor")
    assert (paper < 0.05) == (scheme == "dark")
    for selector in ("body", ".soft", ".good", "summary", "thead button", "figcaption"):
        ink = colour(selector, "color")
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, selector  # WCAG AA


def test_browser_runs_no_stranger_s_script(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(make_run([HOSTILE, "arm"])), encoding="utf-8")
    hostile = Browser(chromium, path)
    opened = hostile.open()
    opened.wait_for_timeout(200)
    assert hostile.complaints == []
    assert "unsafe-inline" not in path.read_text(encoding="utf-8")
    assert [url for url in hostile.requests if not url.startswith("data:")] == [path.as_uri()]


def test_browser_refuses_a_script_that_the_template_does_not_have(chromium: Any, tmp_path: Path) -> None:
    """Planted after the page was made: the policy, not the escaping alone, keeps it from running."""
    path = tmp_path / "report.html"
    planted = "<script>document.title = 'mine'</script><p onclick='document.title=1'>x</p></body>"
    path.write_text(page(make_run(["st", "arm"])).replace("</body>", planted), encoding="utf-8")
    context = chromium.new_context()
    opened = context.new_page()
    opened.goto(path.as_uri())
    opened.wait_for_timeout(200)
    opened.get_by_text("x", exact=True).click()
    assert opened.title() not in ("mine", "1")
    context.close()


def test_browser_without_scripts_shows_every_layer(chromium: Any, built: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(built.as_uri())
    assert opened.locator("#ranking-table th[scope=rowgroup]:visible").count() == 5
    context.close()

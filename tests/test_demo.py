"""The demo page in a real browser, on a real server that wants a token: what it shows is what the server answers."""

import json
import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser, screenshot
from conftest import Project
from playwright.sync_api import Page, expect
from servers import Server, serving

from serving.card import read_card

pytestmark = pytest.mark.processes

TOKEN = "open-sésame"
NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
EVIL = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    log = tmp_path_factory.mktemp("demo") / "log"
    with serving(project.folder, "run", "--demo-page", log=log, CTR_SERVE_TOKEN=TOKEN) as started:
        yield started


@contextmanager
def demo(server: Server, *, token: str = TOKEN) -> Generator[Page]:
    """The page with an example scored; a fault of its own, or something that its policy forbids, fails the test."""
    with open_browser() as (page, errors):
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if "Security Policy" in said.text else None)
        page.on("request", lambda asked: complaints.append(asked.url) if foreign(asked.url, server) else None)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{server.url}/demo")
        page.locator("#examples button").first.wait_for()
        if token:
            page.get_by_label("Token").fill(token)
            page.locator("#effects tbody tr").first.wait_for()
        yield page
        assert not errors
        assert not complaints


def foreign(url: str, server: Server) -> bool:
    return not url.startswith((f"{server.url}/", "data:,"))


def ask(server: Server, *rows: dict[str, Any]) -> list[float]:
    """What the server says of rows itself."""
    answer = server.post({"instances": list(rows)}, authorization=f"Bearer {TOKEN}".encode())  # pyright: ignore
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def shown(page: Page) -> float:
    """The probability on the page."""
    found = re.search(r"probability (\d\.\d+)", page.inner_text("#score-more"))
    assert found
    assert page.inner_text("#score").endswith("%")
    assert float(page.inner_text("#score")[:-1]) == pytest.approx(100 * float(found[1]), abs=0.006)
    return float(found[1])


def instance(page: Page) -> dict[str, Any]:
    """The row in the page's fields, as a client would send it."""
    texts = {name: page.get_by_label(name, exact=True).input_value() for name in [*NUMBERS, *CATEGORIES]}
    return {name: float(text) if name in NUMBERS else text for name, text in texts.items() if text}


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def settled(page: Page, do: Any) -> None:
    """Does something, and waits until the page has shown the answer."""
    with page.expect_response(lambda answer: answer.url.endswith(":predict")):
        do()
    expect(page.locator("#score-part")).not_to_have_attribute("aria-busy", "true")


def edit(page: Page, name: str, text: str) -> None:
    settled(page, lambda: page.get_by_label(name, exact=True).fill(text))


def take(page: Page, text: str) -> None:
    if not page.locator("#paste").is_visible():
        page.get_by_text("Paste a line of a log").click()
    page.fill("#paste", text)
    settled(page, page.get_by_role("button", name="Take it").click)


def effects(page: Page) -> list[tuple[str, str, float, float]]:
    """Of each line field, value, log-odds and probability, and which way its bar goes."""
    found: list[tuple[str, str, float, float]] = []
    for line in page.locator("#effects tbody tr").all():
        name, value, _, odds, points = line.locator("th, td").all_inner_texts()
        effect, share = (float(text.replace("\N{MINUS SIGN}", "-")) for text in (odds, points))
        assert ("up" if effect >= 0 else "down") in (line.locator(".bar").get_attribute("class") or "")
        found.append((name, value, effect, share))
    return found


def test_example_and_edits_score_as_the_server_answers(server: Server) -> None:
    with demo(server) as page:
        settled(page, page.get_by_role("button", name="Example 2").click)
        first = shown(page)
        assert first == pytest.approx(ask(server, instance(page))[0], abs=5e-5)
        edit(page, "I1", "250")
        second = shown(page)
        row = instance(page)
        assert row["I1"] == 250
        assert second == pytest.approx(ask(server, row)[0], abs=5e-5)
        assert abs(second - first) > 1e-3
        assert "since the row was picked" in page.inner_text("#score-more")
        # By keyboard alone: on to I3 (I2 is missing here), empty it, and back as it was.
        page.get_by_label("I1", exact=True).press("ArrowDown")
        page.keyboard.press("Enter")
        focused = page.locator("#fields input:focus")
        assert focused.get_attribute("id") == page.get_by_label("I3", exact=True).get_attribute("id")
        settled(page, lambda: focused.press("Delete"))
        assert row.keys() - instance(page).keys() == {"I3"}
        assert shown(page) == pytest.approx(ask(server, instance(page))[0], abs=5e-5)
        settled(page, lambda: focused.press("Escape"))
        assert shown(page) == second
        settled(page, page.get_by_role("button", name="All missing").click)
        assert shown(page) == pytest.approx(ask(server, {})[0], abs=5e-5)
        assert effects(page) == []


def test_effects_are_leave_one_out_of_a_pasted_line_and_sorted(server: Server, project: Project) -> None:
    line = (project.folder / "log.tsv").read_text().splitlines()[7]
    label, *values = line.split("\t")
    row: dict[str, Any] = {
        name: int(value) if name in NUMBERS else value
        for name, value in zip([*NUMBERS, *CATEGORIES], values, strict=True)
        if value
    }
    with demo(server) as page:
        take(page, line + "\r\n")
        assert page.inner_text("#paste-said") == f"Taken; its label was {label}."
        assert instance(page) == row
        found = effects(page)
        whole, *without = ask(server, row, *({key: row[key] for key in row if key != name} for name in row))
        assert shown(page) == pytest.approx(whole, abs=5e-5)
        expected = {name: (log_odds(whole) - log_odds(p), whole - p) for name, p in zip(row, without, strict=True)}
        assert {name for name, *_ in found} == set(row)
        for name, value, odds, points in found:
            assert value == str(row[name])
            assert (odds, points) == pytest.approx(expected[name], abs=1e-4), name
        sizes = [abs(odds) for _, _, odds, _ in found]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > 0.05
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert screenshot(page, f"demo-{scheme}").stat().st_size > 50_000
        # The same without the label, and as JSON.
        take(page, "\t".join(values))
        assert instance(page) == row
        assert shown(page) == pytest.approx(whole, abs=5e-5)
        take(page, json.dumps({"instances": [{**row, "I1": 9, "I3": None}]}))
        assert instance(page) == {**{key: row[key] for key in row if key != "I3"}, "I1": 9}


def test_values_are_text_whatever_they_are(server: Server) -> None:
    with demo(server) as page:
        edit(page, "C5", EVIL)
        expect(page.locator("#effects tr[data-field=C5] .value")).to_have_text(EVIL)
        assert page.locator("#effects script, #effects img").count() == 0
        assert page.evaluate("window.ran") is None
        assert shown(page) == pytest.approx(ask(server, instance(page))[0], abs=5e-5)


def test_errors_stand_where_they_belong_in_words(server: Server) -> None:
    with demo(server) as page:
        before = shown(page)
        edit(page, "I4", "many")
        field = page.locator(".field", has=page.get_by_label("I4", exact=True))
        expect(field.locator(".wrong")).to_have_text("field 'I4' is 'many', not a number")
        expect(page.locator(".wrong:visible")).to_have_count(1)
        expect(page.get_by_label("I4", exact=True)).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#score-part")).to_have_class(re.compile("stale"))
        screenshot(page, "demo-error")
        settled(page, lambda: page.get_by_label("I4", exact=True).press("Escape"))
        expect(page.locator(".wrong:visible")).to_have_count(0)
        expect(page.locator("#score-part")).not_to_have_class(re.compile("stale"))
        assert shown(page) == before
        page.get_by_text("Paste a line of a log").click()
        page.fill("#paste", "1\t2\t3")
        page.get_by_role("button", name="Take it").click()
        expect(page.locator("#paste-error")).to_contain_text("The line has 3 values, not the 40 of this log: label, I1")
        take(page, '{"I1": 3, "C27": "x"}')
        expect(page.locator("#paste-error")).to_contain_text("unknown field 'C27': did you mean 'C")
        assert shown(page) == before


def test_page_and_card_need_no_token_and_scores_do(server: Server, project: Project) -> None:
    with demo(server, token="") as page:
        assert page.inner_text("#score") == "\N{EN DASH}"
        settled(page, lambda: page.get_by_label("Token").fill("wrong"))
        expect(page.locator("#token-error")).to_contain_text("no valid token")
        settled(page, lambda: page.get_by_label("Token").fill(TOKEN))
        expect(page.locator("#token-error")).to_be_hidden()
        assert shown(page) == pytest.approx(ask(server, instance(page))[0], abs=5e-5)
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        model = project.folder / "run" / f"group-{project.trained['served_group']}" / "model"
        card = read_card(model)
        text = page.inner_text("#card")
        assert {card["data_digest"], card["spec_digest"], card["run_id"]} <= set(text.split())
        (part,) = card["metrics"]
        assert f"{card['metrics'][part]['log_loss']:.5g}" in text.split()
        assert page.get_by_text("train.batch_size").is_hidden()
        page.locator("summary", has_text="Settings").click()
        assert page.locator("dt", has_text=re.compile("^train.batch_size$")).locator("+ dd").inner_text() == "64"
        page.locator("summary", has_text="What was recorded").click()
        missing = page.locator("#card tr", has=page.locator("th", has_text=re.compile("^I12$"))).locator("td").first
        assert float(missing.inner_text()[:-1]) == pytest.approx(100 * card["recorded"]["missing"]["I12"], abs=0.006)


def test_headers_allow_nothing_from_elsewhere_and_no_path_is_told(server: Server, project: Project) -> None:
    answer = server.get("/demo")
    assert answer.status_code == 200
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["img-src"] == "data:"
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", rules[name]) for name in ("script-src", "style-src"))
    assert str(project.folder) not in server.get("/demo/model.json").text
    assert server.get("/openapi.json").status_code == 401


def test_without_the_option_there_is_no_page(project: Project, tmp_path: Path) -> None:
    with serving(project.folder, "run", log=tmp_path / "log") as plain:
        assert plain.get("/demo").status_code == plain.get("/demo/model.json").status_code == 404
